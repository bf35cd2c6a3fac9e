"""One mixed worker, 1P+1D and 2P+2D give the same answer in every field.

Ids and times are set aside, log-probabilities may differ by 1e-3; all else is compared exactly: text, token
ids, finish and stop reasons, usage with cached tokens, log-probability tokens and their order, and what the
chunks of a stream add up to.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from support.serving import serving

pytest.importorskip("torch", reason="the built-in engine needs the engine extra")

TOPOLOGIES = {
    "mixed": ("--mixed", "1"),
    "1P+1D": ("--prefill", "1", "--decode", "1"),
    "2P+2D": ("--prefill", "2", "--decode", "2"),
}
ALONE = 40
"""Requests sent one after another: their cached tokens are part of the answer."""
TOGETHER = 32
"""Requests sent at once, with prompts that share no block."""
LOGPROB_TOLERANCE = 1e-3
IGNORED = {"id", "created", "request_id"}
WORDS = (
    *(
        "the",
        "miller",
        "and",
        "her",
        "heron",
        "crossed",
        "a",
        "silver",
        "bridge",
        "before",
        "winter",
        "while",
    ),
    *("old", "keepers", "told", "tales", "of", "salt", "lanterns", "wells", "orchards", "ravens", "rivers"),
    *("who", "where", "what", "carried", "found", "lost", "gave", "song", "stone"),
)

Call = tuple[str, dict[str, Any]]


def _words(chooser: random.Random, count: int) -> str:
    return " ".join(chooser.choice(WORDS) for _ in range(count))


def _sampling(chooser: random.Random) -> dict[str, Any]:
    """Greedy half of the time; else seeded, with a random choice of the other knobs."""
    fields: dict[str, Any] = {"max_tokens": chooser.choice([1, 2, 7, 16, 33, 48])}
    if chooser.random() < 0.5:
        fields["temperature"] = 0
    else:
        fields |= {"temperature": chooser.choice([0.5, 1.0, 1.5]), "seed": chooser.randrange(2**31)}
        fields |= chooser.choice([{}, {"top_p": 0.9}, {"top_k": 20}, {"min_p": 0.05}])
    fields |= chooser.choice(
        [{}, {}, {"frequency_penalty": 0.7}, {"presence_penalty": 0.5}, {"repetition_penalty": 1.2}]
    )
    fields |= chooser.choice([{}, {"min_tokens": min(5, fields["max_tokens"])}])
    fields |= chooser.choice([{}, {}, {"stop": ["e ", "and", "."]}, {"ignore_eos": True}])
    return fields | {"return_token_ids": True}


def _calls(count: int, seed: int, shared: bool) -> list[Call]:
    chooser = random.Random(seed)
    prefix = _words(chooser, 60)
    calls: list[Call] = []
    for number in range(count):
        length = chooser.choice([1, 3, 10, 15, 16, 17, 40, 90, 200, 400])
        text = f"{number} {_words(chooser, length)}"
        if shared and chooser.random() < 0.6:
            text = f"{prefix} {text}"
        calls.append(_call(chooser, number, text))
    return calls


def _call(chooser: random.Random, number: int, text: str) -> Call:
    body = _sampling(chooser)
    if number % 3 == 0:
        extra = chooser.choice([{}, {"logprobs": 3}, {"echo": True, "logprobs": 2}, {"n": 2}])
        return "/v1/completions", body | extra | {"prompt": text}
    extra = chooser.choice([{}, {"logprobs": True, "top_logprobs": 4}, {"n": 2}])
    messages = [{"role": "user", "content": text}]
    if chooser.random() < 0.3:
        messages = [
            {"role": "user", "content": f"{number} hello."},
            {"role": "assistant", "content": "Good day."},
            *messages,
        ]
    return "/v1/chat/completions", body | extra | {"messages": messages}


def _ask(client: httpx.Client, call: Call) -> dict[str, Any]:
    path, body = call
    response = client.post(path, json=body | {"model": "diptych-tales"})
    assert response.status_code == 200, response.text
    return response.json()


def _ask_streaming(client: httpx.Client, call: Call) -> list[dict[str, Any]]:
    path, body = call
    sent = body | {"model": "diptych-tales", "stream": True, "stream_options": {"include_usage": True}}
    with client.stream("POST", path, json=sent) as response:
        lines = [line for line in response.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def _conversation(client: httpx.Client) -> list[dict[str, Any]]:
    """Three turns: what decode wrote is found by the next turn's prefill, equally in each topology."""
    messages: list[dict[str, str]] = []
    answers = []
    for turn in ("Tell me a tale about a mill and a heron.", "Who was in it?", "And where did they go?"):
        messages.append({"role": "user", "content": turn})
        answers.append(
            _ask(client, ("/v1/chat/completions", {"messages": messages, "temperature": 0, "max_tokens": 60}))
        )
        messages.append({"role": "assistant", "content": answers[-1]["choices"][0]["message"]["content"]})
    return answers


def _everything(url: str) -> dict[str, Any]:
    with httpx.Client(base_url=url, timeout=240.0) as client:
        alone = [_ask(client, call) for call in _calls(ALONE, seed=1, shared=True)]
        talk = _conversation(client)
        streams = [_ask_streaming(client, call) for call in _calls(8, seed=2, shared=True)]
        with ThreadPoolExecutor(TOGETHER) as threads:
            together = list(
                threads.map(lambda call: _ask(client, call), _calls(TOGETHER, seed=3, shared=False))
            )
    return {
        "alone": alone,
        "conversation": talk,
        "streams": [_joined(s) for s in streams],
        "together": together,
    }


def _joined(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """What a stream amounts to: how tokens share chunks is timing, what they add up to is not."""
    text: dict[int, str] = {}
    reasons: dict[int, list[Any]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            piece = choice["text"] if "text" in choice else choice["delta"].get("content") or ""
            text[choice["index"]] = text.get(choice["index"], "") + piece
            if choice["finish_reason"]:
                reasons.setdefault(choice["index"], []).append(choice["finish_reason"])
    return {"text": text, "reasons": reasons, "usage": chunks[-1]["usage"]}


def _differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Every place where two answers differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            yield f"{path}: fields {sorted(map(str, one))} against {sorted(map(str, other))}"
            return
        for key in one:
            if key not in IGNORED:
                yield from _differences(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            yield f"{path}: {len(one)} items against {len(other)}"
            return
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _differences(left, right, f"{path}[{index}]")
    elif isinstance(one, float) and isinstance(other, float) and "logprob" in path:
        if abs(one - other) > LOGPROB_TOLERANCE:
            yield f"{path}: {one} against {other}"
    elif one != other:
        yield f"{path}: {one!r} against {other!r}"


@pytest.fixture(scope="module")
def answers() -> dict[str, dict[str, Any]]:
    found = {}
    for name, arguments in TOPOLOGIES.items():
        with serving(*arguments) as url:
            found[name] = _everything(url)
    return found


@pytest.mark.live
@pytest.mark.timeout(600)
@pytest.mark.parametrize("topology", ["1P+1D", "2P+2D"])
def test_split_equals_unsplit_in_every_field(answers: dict[str, dict[str, Any]], topology: str) -> None:
    differences = list(_differences(answers["mixed"], answers[topology]))
    assert not differences, "\n".join(differences[:20])


@pytest.mark.live
@pytest.mark.timeout(600)
def test_the_prompts_exercise_what_they_claim(answers: dict[str, dict[str, Any]]) -> None:
    alone = answers["mixed"]["alone"]
    cached = [answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in alone]
    reasons = {choice["finish_reason"] for answer in alone for choice in answer["choices"]}
    assert sum(count > 0 for count in cached) >= 10
    assert reasons == {"stop", "length"}
    talk = answers["mixed"]["conversation"]
    assert talk[-1]["usage"]["prompt_tokens_details"]["cached_tokens"] > talk[0]["usage"]["prompt_tokens"]
