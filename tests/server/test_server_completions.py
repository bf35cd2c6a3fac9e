"""`/v1/completions` and `/v1/models`: forms of prompts, echo, log-probabilities."""

from __future__ import annotations

from typing import Any

from diptych.domain.request import Request
from support.api_client import TEXT, client_of, events_of
from support.fake_frontend import FakeFrontend
from support.tiny_model import EOS, ids_of, tiny_tokenizer

PROMPT = "the fox 🙂"


def saying(text: str) -> FakeFrontend:
    return FakeFrontend(lambda _: [*ids_of(text), EOS])


async def unary(frontend: FakeFrontend, **body: Any) -> dict[str, Any]:
    async with client_of(frontend) as client:
        response = await client.post(TEXT, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def streamed(frontend: FakeFrontend, **body: Any) -> list[Any]:
    async with client_of(frontend) as client:
        response = await client.post(TEXT, json={"stream": True, **body})
    assert response.status_code == 200, response.text
    return events_of(response.text)


async def test_the_four_forms_of_a_prompt() -> None:
    ids = ids_of(PROMPT)
    for prompt, expected in (
        (PROMPT, [ids]),
        ([PROMPT, "a"], [ids, ids_of("a")]),
        (ids, [ids]),
        ([ids, [7]], [ids, [7]]),
    ):
        frontend = saying(" said")
        answer = await unary(frontend, prompt=prompt)
        assert [list(request.prompt_token_ids) for request in frontend.requests] == expected
        assert [choice["index"] for choice in answer["choices"]] == list(range(len(expected)))
        assert all(choice["text"] == " said" for choice in answer["choices"])
        assert answer["usage"]["prompt_tokens"] == sum(map(len, expected))
        assert answer["object"] == "text_completion" and answer["id"].startswith("cmpl-")


async def test_choices_are_in_the_order_of_prompts() -> None:
    def script(request: Request) -> list[int]:
        word = "a" if request.prompt_token_ids == tuple(ids_of("A")) else "b"
        return [*ids_of(word + str(request.sampling.seed)), EOS]

    answer = await unary(FakeFrontend(script), prompt=["A", "B"], n=2, seed=3)
    assert [choice["text"] for choice in answer["choices"]] == ["a3", "a4", "b3", "b4"]


async def test_sixteen_tokens_unless_told_otherwise() -> None:
    answer = await unary(saying("a" * 60), prompt="x")
    assert answer["usage"]["completion_tokens"] == 16 and answer["choices"][0]["finish_reason"] == "length"


async def test_echo_puts_the_prompt_in_front() -> None:
    for prompt in (PROMPT, ids_of(PROMPT)):
        answer = await unary(saying(" said"), prompt=prompt, echo=True)
        assert answer["choices"][0]["text"] == PROMPT + " said"
        chunks = await streamed(saying(" said"), prompt=prompt, echo=True)
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks[:-1]) == PROMPT + " said"


async def test_echo_with_logprobs_scores_the_prompt() -> None:
    """What evaluation harnesses rely on: entries for all tokens, null for the first, aligned offsets."""
    ids = ids_of(PROMPT)
    frontend = saying(" said")
    answer = await unary(frontend, prompt=[ids], echo=True, logprobs=1, max_tokens=1)
    found = answer["choices"][0]["logprobs"]
    assert frontend.requests[0].sampling.prompt_logprobs == 1
    count = len(ids) + 1
    assert [len(found[key]) for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset")] == [
        count
    ] * 4
    assert found["token_logprobs"] == [None] + [-0.5] * (count - 1)
    assert found["top_logprobs"][0] is None
    assert found["top_logprobs"][1] == {tiny_tokenizer().token_text(ids[1]): -0.5}
    text = answer["choices"][0]["text"]
    for token, offset in zip(found["tokens"], found["text_offset"], strict=True):
        assert token.startswith("bytes:") or text.startswith(token, offset)


async def test_top_logprobs_hold_the_token_itself() -> None:
    answer = await unary(saying("ab"), prompt="x", logprobs=0, max_tokens=2)
    found = answer["choices"][0]["logprobs"]
    assert [list(top) for top in found["top_logprobs"]] == [[token] for token in found["tokens"]]
    answer = await unary(saying("ab"), prompt="x", logprobs=3, max_tokens=2)
    assert [len(top) for top in answer["choices"][0]["logprobs"]["top_logprobs"]] == [3, 3]


async def test_streamed_logprobs_equal_the_unary_ones() -> None:
    body: dict[str, Any] = {"prompt": PROMPT, "echo": True, "logprobs": 2}
    whole = (await unary(saying(" said 🙂"), **body))["choices"][0]["logprobs"]
    chunks = await streamed(saying(" said 🙂"), **body)
    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks[:-1]]
    for key, expected in whole.items():
        assert [entry for part in parts if part for entry in part[key]] == expected


async def test_stream_chunks() -> None:
    *chunks, usage, done = await streamed(
        saying(" said"), prompt="a", stream_options={"include_usage": True}, return_token_ids=True
    )
    assert done == "[DONE]" and usage["choices"] == [] and usage["usage"]["prompt_tokens"] == 1
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == "stop"
    assert chunks[0]["choices"][0]["prompt_token_ids"] == ids_of("a")
    assert sum(chunk["choices"][0]["finish_reason"] is not None for chunk in chunks) == 1


async def test_models_are_listed_under_all_names() -> None:
    async with client_of(saying("a")) as client:
        listed = (await client.get("/v1/models")).json()
        assert [model["id"] for model in listed["data"]] == ["tiny", "org/tiny"]
        one = (await client.get("/v1/models/org/tiny")).json()
        assert one == listed["data"][1]
        assert one["object"] == "model" and one["max_model_len"] == 256 and one["root"] == "tiny"
        missing = await client.get("/v1/models/nope")
        assert missing.status_code == 404 and missing.json()["error"]["code"] == "model_not_found"


async def test_the_answer_names_the_model_as_it_was_asked() -> None:
    assert (await unary(saying("a"), prompt="x", model="org/tiny"))["model"] == "org/tiny"
    async with client_of(saying("a"), accept_any_model=True) as client:
        response = await client.post(TEXT, json={"prompt": "x", "model": "gpt-9"})
        assert response.status_code == 200 and response.json()["model"] == "gpt-9"
