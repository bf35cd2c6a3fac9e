"""A prefill pool in the model's own numbers hands over to a decode pool in eight bits."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from support.serving import serving

pytest.importorskip("torch", reason="the built-in engine needs the engine extra")

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]
QUESTIONS = ("Where does Mira live?", "Who are you?", "Does Tam have a pet?")


def _answers(url: str) -> list[dict[str, Any]]:
    """Greedy, each asked again in the same conversation: the second prompt finds blocks that decode wrote."""
    found: list[dict[str, Any]] = []
    with httpx.Client(base_url=url, timeout=120.0) as client:
        for question in QUESTIONS:
            messages = [{"role": "user", "content": question}]
            for _ in range(2):
                body = {"model": "diptych-tales", "messages": messages, "temperature": 0, "max_tokens": 40}
                response = client.post("/v1/chat/completions", json=body)
                assert response.status_code == 200, response.text
                found.append(response.json())
                said = found[-1]["choices"][0]["message"]["content"]
                messages += [{"role": "assistant", "content": said}, {"role": "user", "content": question}]
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_answers_stay_those_of_the_model(dtype: str) -> None:
    with serving("--dtype", dtype) as url:
        expected = _answers(url)
    with serving("--dtype", dtype, "--set", "pools.decode.weights=int8") as url:
        found = _answers(url)
    texts = [[it["choices"][0]["message"]["content"] for it in answers] for answers in (expected, found)]
    assert texts[0][::2] == texts[1][::2]
    assert any(it["usage"]["prompt_tokens_details"]["cached_tokens"] for it in found[1::2])
