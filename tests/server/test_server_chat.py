"""`/v1/chat/completions`: the invariants of answers and streams, one by one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.domain.request import Request
from diptych.server.text.directory import GenerationDefaults
from support.api_client import CHAT, MESSAGES, client_of, events_of
from support.fake_frontend import FakeFrontend
from support.tiny_model import EOS, ids_of, tiny_model, tiny_tokenizer

TEXT = "Once upon a time 🙂 the fox"


def saying(text: str, *, batch: int = 1) -> FakeFrontend:
    """A cluster that says ``text`` and ends it."""
    return FakeFrontend(lambda _: [*ids_of(text), EOS], batch=batch)


async def unary(frontend: FakeFrontend, config: dict[str, Any] | None = None, **body: Any) -> dict[str, Any]:
    async with client_of(frontend, **(config or {})) as client:
        response = await client.post(CHAT, json={"messages": MESSAGES, **body})
    assert response.status_code == 200, response.text
    return response.json()


async def streamed(frontend: FakeFrontend, config: dict[str, Any] | None = None, **body: Any) -> list[Any]:
    async with client_of(frontend, **(config or {})) as client:
        response = await client.post(CHAT, json={"messages": MESSAGES, "stream": True, **body})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return events_of(response.text)


def text_of(chunks: list[Any], index: int = 0) -> str:
    return "".join(
        choice["delta"].get("content") or ""
        for chunk in chunks
        if chunk != "[DONE]"
        for choice in chunk["choices"]
        if choice["index"] == index
    )


# ---------------------------------------------------------------- the answer


async def test_a_long_conversation_is_rendered_like_a_short_one() -> None:
    frontend, messages = saying("a"), [{"role": "user", "content": "a"}] * 300
    async with client_of(frontend, model=tiny_model(max_model_tokens=4096)) as client:
        assert (await client.post(CHAT, json={"messages": messages})).status_code == 200
    (request,) = frontend.requests
    assert list(request.prompt_token_ids) == ids_of("<s>" + "<|user|>a<|end|>" * 300 + "<|assistant|>")


async def test_a_unary_answer_is_complete() -> None:
    frontend = saying(TEXT)
    frontend.cached_tokens = 4
    answer = await unary(frontend, model="tiny")
    prompt = tiny_tokenizer().encode("<s><|user|>hello<|end|><|assistant|>", add_special_tokens=False)
    assert list(frontend.requests[0].prompt_token_ids) == prompt
    assert answer["object"] == "chat.completion" and answer["model"] == "tiny"
    assert answer["id"].startswith("chatcmpl-") and answer["system_fingerprint"].startswith("fp_")
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": TEXT, "refusal": None}
    assert (choice["index"], choice["finish_reason"], choice["stop_reason"]) == (0, "stop", None)
    assert choice["logprobs"] is None
    output = len(ids_of(TEXT)) + 1
    assert answer["usage"] == {
        "prompt_tokens": len(prompt),
        "completion_tokens": output,
        "total_tokens": len(prompt) + output,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


async def test_the_role_leaves_with_the_first_token() -> None:
    first, *rest = await streamed(saying(TEXT))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "O"} or text_of([first])
    assert all("role" not in c["delta"] for chunk in rest if chunk != "[DONE]" for c in chunk["choices"])


async def test_a_first_token_without_text_still_opens_the_stream() -> None:
    first, *_ = await streamed(saying("🙂"))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    first, last, done = await streamed(saying(""))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert (last["choices"][0]["finish_reason"], done) == ("stop", "[DONE]")


async def test_chunks_share_their_envelope_and_end_once() -> None:
    *chunks, done = await streamed(saying(TEXT))
    assert done == "[DONE]"
    for key in ("id", "created", "model", "system_fingerprint"):
        assert len({chunk[key] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]
    assert all("usage" not in chunk for chunk in chunks)


@settings(max_examples=40)
@given(
    st.text(max_size=24), st.integers(1, 5), st.lists(st.text(" eo🙂", min_size=1, max_size=3), max_size=2)
)
def test_deltas_add_up_to_the_unary_answer(text: str, batch: int, stops: list[str]) -> None:
    async def both() -> None:
        body: dict[str, Any] = {"stop": stops, "seed": 1}
        whole = await unary(saying(text, batch=1), **body)
        chunks = await streamed(saying(text, batch=batch), {"force_include_usage": True}, **body)
        assert text_of(chunks) == whole["choices"][0]["message"]["content"]
        last = chunks[-3]["choices"][0]
        assert last["finish_reason"] == whole["choices"][0]["finish_reason"]
        assert last["stop_reason"] == whole["choices"][0]["stop_reason"]
        assert chunks[-2]["usage"] == whole["usage"], "a batch changes nothing that is counted"

    asyncio.run(both())


async def test_a_token_without_text_still_gives_a_chunk() -> None:
    tokens = len(ids_of("漢字"))
    assert tokens == 6, "three for each character"
    frontend = saying("漢字")
    frontend.turns = 50
    chunks = [chunk for chunk in await streamed(frontend) if chunk != "[DONE]"]
    texts = [chunk["choices"][0]["delta"].get("content") for chunk in chunks]
    assert texts[:tokens] == ["", "", "漢", "", "", "字"]


async def test_no_character_is_split() -> None:
    chunks = await streamed(saying("🙂é漢字🙂"))
    assert "\ufffd" not in "".join(str(chunk) for chunk in chunks)
    assert text_of(chunks) == "🙂é漢字🙂"


async def test_usage_comes_last_and_only_if_wanted() -> None:
    *chunks, usage, done = await streamed(saying(TEXT), stream_options={"include_usage": True})
    assert done == "[DONE]" and usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == len(ids_of(TEXT)) + 1
    assert all(chunk["usage"] is None for chunk in chunks)
    forced = await streamed(saying(TEXT), {"force_include_usage": True})
    assert forced[-2]["usage"] == usage["usage"]


async def test_max_tokens_ends_with_length() -> None:
    for limit in (
        {"max_tokens": 3},
        {"max_completion_tokens": 3},
        {"max_completion_tokens": 3, "max_tokens": 9},
    ):
        answer = await unary(saying(TEXT), None, **limit)
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 3


async def test_the_default_length_is_what_is_left() -> None:
    frontend = saying(TEXT)
    await unary(frontend)
    (request,) = frontend.requests
    assert request.sampling.max_tokens == 256 - len(request.prompt_token_ids)


# ---------------------------------------------------------------- stop


async def test_a_stop_string_ends_the_output_at_its_token() -> None:
    frontend = saying("the fox said no more")
    frontend.hold_at[len(ids_of("the fox said no"))] = asyncio.Event()
    answer = await unary(frontend, stop=["said", "never"])
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == "the fox "
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "said")
    assert answer["usage"]["completion_tokens"] == len(ids_of("the fox said"))
    assert frontend.stopped == [frontend.requests[0].request_id] and frontend.aborted == []
    assert frontend.live == [], "the report was waited for"


async def test_a_stop_string_can_be_shown() -> None:
    answer = await unary(saying("the fox said"), stop="fox", include_stop_str_in_output=True)
    assert answer["choices"][0]["message"]["content"] == "the fox"


async def test_a_stop_string_in_the_last_token_needs_no_order() -> None:
    frontend = saying("the fox")
    count = len(ids_of("the fox"))
    answer = await unary(frontend, stop="x", max_tokens=count)
    assert answer["choices"][0]["stop_reason"] == "x" and frontend.stopped == []


async def test_stop_tokens_are_named_only_if_the_client_named_them() -> None:
    word = ids_of("the fox")[-1]
    answer = await unary(saying("the fox said"), stop_token_ids=[word])
    (choice,) = answer["choices"]
    assert choice["stop_reason"] == word
    assert tiny_tokenizer().token_text(word) not in choice["message"]["content"]
    shown = await unary(saying("the fox"), stop_token_ids=[word], include_stop_str_in_output=True)
    assert shown["choices"][0]["message"]["content"] == "the fox"


async def test_min_tokens_and_ignore_eos_reach_the_cluster() -> None:
    frontend = FakeFrontend(lambda _: [EOS, *ids_of("the fox"), EOS])
    answer = await unary(frontend, min_tokens=2, skip_special_tokens=False)
    assert answer["choices"][0]["message"]["content"] == "</s>the fox"
    frontend = FakeFrontend(lambda _: [EOS, *ids_of("ab")] * 3)
    answer = await unary(frontend, ignore_eos=True, max_tokens=4)
    assert frontend.requests[0].sampling.stop_token_ids == ()
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_no_stop_string_begins_before_min_tokens() -> None:
    count = len(ids_of("fox "))
    answer = await unary(saying("fox fox fox"), stop="fox", min_tokens=count + 1)
    assert answer["choices"][0]["message"]["content"].startswith("fox")
    assert answer["choices"][0]["stop_reason"] == "fox"


# ---------------------------------------------------------------- sampling


async def test_parameters_reach_the_cluster() -> None:
    frontend = saying(TEXT)
    await unary(
        frontend,
        temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, presence_penalty=1, frequency_penalty=-1.5,
        repetition_penalty=1.1, seed=-3, logit_bias={"5": -100, "3": 2.5}, priority=-4, stop_token_ids=[9],
    )  # fmt: skip
    (request,) = frontend.requests
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 7, 0.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (1, -1.5)
    assert (sampling.repetition_penalty, sampling.seed) == (1.1, 2**63 - 3)
    assert sampling.logit_bias == ((3, 2.5), (5, -100.0))
    assert sampling.stop_token_ids == (EOS, 9) and request.priority == -4


async def test_the_models_defaults_fill_what_the_client_left_open() -> None:
    model = tiny_model(defaults=GenerationDefaults(temperature=0.3, top_k=11, repetition_penalty=1.2))
    frontend = saying(TEXT)
    async with client_of(frontend, model=model) as client:
        await client.post(CHAT, json={"messages": MESSAGES})
        await client.post(CHAT, json={"messages": MESSAGES, "temperature": 0, "top_k": -1})
    first, second = (request.sampling for request in frontend.requests)
    assert (first.temperature, first.top_k, first.repetition_penalty, first.top_p) == (0.3, 11, 1.2, 1.0)
    assert (second.temperature, second.top_k) == (0, 0)
    assert first.seed != second.seed, "drawn anew for each"


async def test_what_one_choice_computed_for_another_is_not_counted_as_cached() -> None:
    frontend = FakeFrontend(lambda _: [*ids_of("a"), EOS])
    frontend.cached_tokens_of = lambda request: {40: 5, 41: 2, 42: 5}[request.sampling.seed]
    answer = await unary(frontend, n=3, seed=40)
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}


async def test_n_choices_differ_in_seed_and_count_the_prompt_once() -> None:
    def script(request: Request) -> list[int]:
        return [*ids_of("abc"[request.sampling.seed - 40]), EOS]

    frontend = FakeFrontend(script)
    frontend.cached_tokens = 2
    answer = await unary(frontend, n=3, seed=40)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["a", "b", "c"]
    assert answer["usage"]["prompt_tokens"] == len(frontend.requests[0].prompt_token_ids)
    assert answer["usage"]["completion_tokens"] == 6
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}
    chunks = await streamed(FakeFrontend(script), n=3, seed=40)
    assert [text_of(chunks, index) for index in range(3)] == ["a", "b", "c"]
    finals = [c["index"] for chunk in chunks[:-1] for c in chunk["choices"] if c["finish_reason"]]
    assert sorted(finals) == [0, 1, 2]


# ---------------------------------------------------------------- messages


async def test_parts_names_and_template_arguments() -> None:
    frontend = saying("x")
    model = tiny_model(template="{{ messages[0].content }}|{{ messages[0].name }}|{{ mood }}")
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    async with client_of(frontend, model=model) as client:
        body = {
            "messages": [{"role": "user", "content": parts, "name": "ann"}],
            "chat_template_kwargs": {"mood": "fine"},
        }
        assert (await client.post(CHAT, json=body)).status_code == 200
    text = tiny_tokenizer().decode(list(frontend.requests[0].prompt_token_ids), skip_special_tokens=False)
    assert text == "one\ntwo|ann|fine"


async def test_the_last_message_is_continued() -> None:
    frontend = saying(" time")
    messages = [*MESSAGES, {"role": "assistant", "content": "Once upon a"}]
    await unary(frontend, messages=messages, continue_final_message=True)
    text = tiny_tokenizer().decode(list(frontend.requests[0].prompt_token_ids), skip_special_tokens=False)
    assert text.endswith("<|assistant|>Once upon a")


# ---------------------------------------------------------------- extras


async def test_logprobs_have_one_entry_for_each_token() -> None:
    answer = await unary(saying("a🙂"), logprobs=True, top_logprobs=2)
    content = answer["choices"][0]["logprobs"]["content"]
    assert len(content) == answer["usage"]["completion_tokens"]
    assert content[0]["token"] == "a" and content[0]["bytes"] == [97] and content[0]["logprob"] == -0.5
    assert [len(entry["top_logprobs"]) for entry in content] == [2] * len(content)
    assert bytes(b for entry in content[:-1] for b in entry["bytes"]).decode() == "a🙂"
    plain = await unary(saying("a"), logprobs=True)
    assert plain["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


@pytest.mark.parametrize("batch", [1, 3])
async def test_streamed_logprobs_stay_with_their_text(batch: int) -> None:
    whole = await unary(saying(TEXT), logprobs=True)
    chunks = await streamed(saying(TEXT, batch=batch), logprobs=True, stop="zzz")
    entries = [
        (entry, choice["delta"].get("content"))
        for chunk in chunks[:-1]
        for choice in chunk["choices"]
        for entry in (choice["logprobs"] or {"content": []})["content"]
    ]
    assert [entry for entry, _ in entries] == whole["choices"][0]["logprobs"]["content"]
    smile = next(content for entry, content in entries if entry["token"].startswith("bytes:"))
    assert smile is not None and "🙂" in smile


async def test_token_ids_and_prompt_logprobs_on_demand() -> None:
    frontend = saying("the fox")
    answer = await unary(frontend, return_token_ids=True, prompt_logprobs=1)
    prompt = list(frontend.requests[0].prompt_token_ids)
    assert answer["prompt_token_ids"] == prompt
    assert answer["choices"][0]["token_ids"] == [*ids_of("the fox"), EOS]
    assert len(answer["prompt_logprobs"]) == len(prompt) and answer["prompt_logprobs"][0] is None
    entry = answer["prompt_logprobs"][1][str(prompt[1])]
    assert entry == {"logprob": -0.5, "rank": 1, "decoded_token": tiny_tokenizer().token_text(prompt[1])}
    chunks = await streamed(saying("the fox"), return_token_ids=True)
    assert chunks[0]["prompt_token_ids"] == prompt
    ids = [i for chunk in chunks[:-1] for choice in chunk["choices"] for i in choice["token_ids"]]
    assert ids == [*ids_of("the fox"), EOS]


async def test_a_timeline_on_demand() -> None:
    answer = await unary(saying(TEXT), include_metrics=True)
    (metrics,) = answer["metrics"]["choices"]
    assert metrics["ttft_s"] > 0 and metrics["prefill_worker"] == "prefill-0"
    assert sum(metrics["phases_s"].values()) == pytest.approx(metrics["e2e_s"])
    *_, last, done = await streamed(saying(TEXT), stream_options={"include_metrics": True})
    assert done == "[DONE]" and last["choices"] == [] and last["metrics"]["choices"][0]["tpot_s"] > 0


async def test_unknown_fields_are_ignored() -> None:
    assert (await unary(saying("a"), frobnicate=1, store=True, tools=[], tool_choice="auto"))["choices"]
    null = dict.fromkeys(("temperature", "stop", "tools", "stream", "n", "max_tokens", "logit_bias"))
    assert (await unary(saying("a"), None, **null))["choices"]


async def test_equal_prompts_share_hashes_and_salts_part_them() -> None:
    frontend = saying("a")
    for salt in ({}, {}, {"cache_salt": "x"}, {"cache_salt": "y"}, {"cache_salt": "x"}):
        await unary(frontend, None, **salt)
    plain, again, x, y, x_again = (request.block_hashes for request in frontend.requests)
    assert plain == again and x == x_again and len(plain) > 0
    assert len({plain[0], x[0], y[0]}) == 3
