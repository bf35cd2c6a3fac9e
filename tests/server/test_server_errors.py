"""Bad input, refusals and bugs: one body shape, the right status, and the server goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.domain.errors import (
    Bug,
    ContextTooLong,
    DeadlineExceeded,
    DiptychError,
    HandoffFailed,
    InvalidRequest,
    Saturated,
    SpecError,
    UnknownModel,
    WorkerLost,
)
from diptych.domain.ids import RequestId
from diptych.domain.lifecycle import State
from diptych.domain.report import RequestReport
from diptych.domain.request import Request
from diptych.runtime.streams import RequestStream
from diptych.server.config import ServerConfig
from diptych.server.errors import CODES, Failure, failure_of_error, failure_of_report
from support.api_client import CHAT, MESSAGES, TEXT, client_of, events_of
from support.fake_frontend import FakeFrontend, failed, rejected
from support.tiny_model import EOS, ids_of, tiny_model


def saying(text: str = "a") -> FakeFrontend:
    return FakeFrontend(lambda _: [*ids_of(text), EOS])


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of a response, whose shape is checked."""
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"] in CODES and body["error"]["message"]
    assert "Traceback" not in response.text and "x-request-id" in response.headers
    return body["error"]


# ---------------------------------------------------------------- bad fields

BAD_SHARED: list[tuple[dict[str, Any], str]] = [
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "1"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.01}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"top_k": 1.5}, "top_k"),
    ({"min_p": -0.01}, "min_p"),
    ({"min_p": 1.5}, "min_p"),
    ({"presence_penalty": 2.5}, "presence_penalty"),
    ({"frequency_penalty": -2.5}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 2.5}, "max_tokens"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
    ({"seed": 2**63}, "seed"),
    ({"seed": "x"}, "seed"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", ""]}, "stop"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"stop": 5}, "stop"),
    ({"stop": [5]}, "stop"),
    ({"stop_token_ids": [-1]}, "stop_token_ids"),
    ({"stop_token_ids": [320]}, "stop_token_ids"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"logit_bias": {"320": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"0000000000000320": 1}}, "logit_bias"),
    ({"logit_bias": []}, "logit_bias"),
    ({"priority": 2**40}, "priority"),
    ({"priority": "high"}, "priority"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"request_id": "a b"}, "request_id"),
    ({"cache_salt": ""}, "cache_salt"),
    ({"prompt_logprobs": 21}, "prompt_logprobs"),
    ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    ({"ignore_eos": 1}, "ignore_eos"),
    ({"bad_words": ["x"]}, "bad_words"),
    ({"guided_json": {}, "structured_outputs": {"json": {}}}, "structured_outputs"),
    ({"use_beam_search": True}, "use_beam_search"),
]
BAD_CHAT: list[tuple[dict[str, Any], str | None]] = [
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": MESSAGES * 16_385}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}] * 16_385}]}, "messages[0].content"),
    ({"messages": [{"role": "alien", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content",
    ),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"logprobs": 3}, "logprobs"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function"}}, "tool_choice"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
    ({"modalities": ["audio"]}, "modalities"),
    ({"echo": True}, "echo"),
    ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
]
BAD_TEXT: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": ["a", ""]}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": 5}, "prompt"),
    ({"prompt": [1, "a"]}, "prompt"),
    ({"prompt": [320]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [[2**70]]}, "prompt"),
    ({"prompt": [True]}, "prompt"),
    ({"prompt": ["a"] * 129}, "prompt"),
    ({"prompt": ["a"] * 10, "n": 13}, "n"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"suffix": "x"}, "suffix"),
    ({"best_of": 3}, "best_of"),
]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [(CHAT, {"messages": MESSAGES} | bad, param) for bad, param in BAD_SHARED + BAD_CHAT]
    + [(TEXT, {"prompt": "a"} | bad, param) for bad, param in BAD_SHARED + BAD_TEXT],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else None,
)
async def test_a_bad_field_is_named(path: str, body: dict[str, Any], param: str) -> None:
    frontend = saying()
    async with client_of(frontend) as client:
        response = await client.post(path, json=body)
    assert response.status_code == 400
    error = error_of(response)
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert error["code"] in ("invalid_value", "unsupported_value")
    assert frontend.requests == []


@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_a_prompt_that_does_not_fit_names_both_numbers(path: str) -> None:
    model = tiny_model(max_model_tokens=20)
    long = {CHAT: {"messages": [{"role": "user", "content": "x" * 30}]}, TEXT: {"prompt": "x" * 30}}[path]
    short = {CHAT: {"messages": MESSAGES}, TEXT: {"prompt": "x" * 10}}[path]
    async with client_of(saying(), model=model) as client:
        too_long = await client.post(path, json=long)
        too_much = await client.post(path, json={**short, "max_tokens": 15})
        just_right = await client.post(TEXT, json={"prompt": [7] * 19})
        full = await client.post(TEXT, json={"prompt": [7] * 20})
    for response in (too_long, too_much, full):
        assert response.status_code == 400
        error = error_of(response)
        assert error["code"] == "context_length_exceeded" and "20" in error["message"]
    assert "3" in error_of(too_long)["message"] and "15" in error_of(too_much)["message"]
    assert error_of(too_much)["param"] == "max_tokens"
    assert just_right.json()["choices"][0]["finish_reason"] == "length"


async def test_a_model_without_template_has_no_chat() -> None:
    async with client_of(saying(), model=tiny_model(template=None)) as client:
        error = error_of(await client.post(CHAT, json={"messages": MESSAGES}))
    assert error["param"] == "messages" and "/v1/completions" in error["message"]


async def test_an_unknown_model_is_404() -> None:
    async with client_of(saying()) as client:
        response = await client.post(CHAT, json={"messages": MESSAGES, "model": "gpt-9"})
    assert response.status_code == 404 and error_of(response)["code"] == "model_not_found"


# ---------------------------------------------------------------- bad bodies


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"null", b'"x"', b'{"messages": NaN}', b'{"temperature": 1e999}', b"\xff\xfe{}",
        b'{"a": "\xe4"}', b'{"a": "\\ud800"}', b"[" * 5000, b'{"messages": Infinity}',
    ],
)  # fmt: skip
async def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    async with client_of(saying()) as client:
        response = await client.post(CHAT, content=data, headers={"content-type": "application/json"})
    assert response.status_code == 400 and error_of(response)["code"] == "invalid_json"


async def test_the_content_type_must_be_json() -> None:
    data = json.dumps({"prompt": "a"}).encode()
    async with client_of(saying()) as client:
        wrong = await client.post(TEXT, content=data, headers={"content-type": "text/plain"})
        assert wrong.status_code == 400 and error_of(wrong)["code"] == "invalid_content_type"
        for kind in ("application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.x+json"):
            assert (await client.post(TEXT, content=data, headers={"content-type": kind})).status_code == 200
        assert (await client.post(TEXT, content=data)).status_code == 200, "not saying anything is fine"


async def test_a_long_body_is_refused_with_and_without_its_length() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b" " * 1000

    async with client_of(saying(), max_body_bytes=4000) as client:
        for content in (b" " * 4001, chunks()):
            response = await client.post(TEXT, content=content)
            assert response.status_code == 413 and error_of(response)["code"] == "request_too_large"
        assert (await client.post(TEXT, json={"prompt": "a"})).status_code == 200


async def test_unknown_routes_and_methods_have_the_same_shape() -> None:
    async with client_of(saying()) as client:
        missing = await client.get("/v1/nope")
        assert missing.status_code == 404 and error_of(missing)["code"] == "not_found"
        wrong = await client.get(CHAT)
        assert wrong.status_code == 405 and error_of(wrong)["code"] == "method_not_allowed"
        assert wrong.headers["allow"] == "POST"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
FIELDS = (
    "messages", "prompt", "stop", "logit_bias", "n", "stream_options", "tools", "response_format", "model",
    "chat_template_kwargs", "tool_choice", "temperature", "max_tokens", "modalities",
)  # fmt: skip


@settings(max_examples=60)
@given(st.sampled_from([CHAT, TEXT]), st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=4))
def test_no_body_breaks_the_server(path: str, body: dict[str, Any]) -> None:
    async def post() -> httpx.Response:
        base = {"messages": MESSAGES, "prompt": "a", "max_tokens": 3}
        async with client_of(saying("abc")) as client:
            return await client.post(path, content=json.dumps({**base, **body}).encode())

    response = asyncio.run(post())
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code != 200:
        error_of(response)


# ---------------------------------------------------------------- failures of the cluster


@pytest.mark.parametrize("stream", [False, True])
async def test_saturation_is_told_before_the_stream_opens(stream: bool) -> None:
    frontend = saying()
    frontend.fail_at[0] = rejected
    async with client_of(frontend) as client:
        response = await client.post(CHAT, json={"messages": MESSAGES, "stream": stream, "n": 2})
    assert response.status_code == 503
    error = error_of(response)
    assert (error["code"], error["type"]) == ("server_overloaded", "overloaded_error")
    assert response.headers["retry-after"] == "3" and response.headers["retry-after-ms"] == "2500"
    assert response.headers["x-should-retry"] == "true"
    assert frontend.live == [], "the other choice is not left behind"


async def test_the_status_of_saturation_can_be_chosen() -> None:
    frontend = saying()
    frontend.fail_at[0] = rejected
    async with client_of(frontend, saturated_status=429) as client:
        response = await client.post(CHAT, json={"messages": MESSAGES})
    assert response.status_code == 429 and response.headers["retry-after"] == "3"


async def test_a_failure_in_mid_stream_is_a_frame_without_done() -> None:
    frontend = saying("the fox said")
    frontend.fail_at[3] = failed
    async with client_of(frontend) as client:
        response = await client.post(CHAT, json={"messages": MESSAGES, "stream": True})
        unary = await client.post(CHAT, json={"messages": MESSAGES})
    *chunks, last = events_of(response.text)
    assert response.status_code == 200 and chunks
    assert last["error"]["code"] == "worker_lost" and set(last["error"]) == {
        "message",
        "type",
        "param",
        "code",
    }
    assert all(choice["finish_reason"] is None for chunk in chunks for choice in chunk["choices"])
    assert unary.status_code == 503 and error_of(unary)["code"] == "worker_lost"


async def test_a_failure_after_the_stop_string_is_no_failure() -> None:
    frontend = FakeFrontend(lambda _: [*ids_of("the fox said"), EOS], batch=2)

    def stop(request_id: RequestId) -> None:
        *_, task = frontend._live[request_id]
        task.cancel()
        frontend._end(request_id, failed(request_id))

    frontend.stop = stop
    async with client_of(frontend) as client:
        response = await client.post(CHAT, json={"messages": MESSAGES, "stop": "fo"})
    assert response.json()["choices"][0]["message"]["content"] == "the "


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidRequest("m", "p"), 400, "invalid_value"),
        (ContextTooLong("m"), 400, "context_length_exceeded"),
        (UnknownModel("m"), 404, "model_not_found"),
        (Saturated("m", 3.0), 503, "server_overloaded"),
        (WorkerLost("m"), 503, "worker_lost"),
        (HandoffFailed("m"), 503, "handoff_failed"),
        (DeadlineExceeded("m"), 504, "deadline_exceeded"),
        (SpecError("secret"), 500, "internal_error"),
        (Bug("secret"), 500, "internal_error"),
    ],
)
def test_errors_and_reports_have_the_same_status(error: DiptychError, status: int, code: str) -> None:
    report = RequestReport(
        request_id=RequestId("r"), state=State.FAILED, error_code=error.code, error_message=str(error)
    )
    for failure in (failure_of_error(error), failure_of_report(report)):
        assert (failure.status, failure.body()["error"]["code"]) == (status, code)
        assert "secret" not in failure.message


def test_an_abort_from_within_is_told_as_one() -> None:
    aborted = failure_of_report(RequestReport(request_id=RequestId("r"), state=State.ABORTED))
    assert (aborted.status, aborted.code) == (503, "aborted")


@pytest.mark.parametrize(("wait_s", "header"), [(None, "1"), (0.1, "1"), (7.2, "8"), (500.0, "30")])
def test_retry_after_is_bounded(wait_s: float | None, header: str) -> None:
    response = Failure("server_overloaded", "m", retry_after_s=wait_s).response()
    assert response.headers["retry-after"] == header


# ---------------------------------------------------------------- bugs


class Broken(FakeFrontend):
    """Has a bug in `submit`."""

    def submit(self, request: Request, received_s: float) -> RequestStream:
        if len(request.prompt_token_ids) == 1:
            raise ZeroDivisionError("secret detail")
        return super().submit(request, received_s)


async def test_a_bug_costs_one_request() -> None:
    frontend = Broken(lambda _: [*ids_of("a"), EOS])
    async with client_of(frontend) as client:
        response = await client.post(TEXT, json={"prompt": [7]})
        assert response.status_code == 500
        assert error_of(response)["code"] == "internal_error" and "secret" not in response.text
        assert (await client.post(TEXT, json={"prompt": [7, 8]})).status_code == 200


async def test_a_bug_in_mid_stream_is_a_frame_too(monkeypatch: pytest.MonkeyPatch) -> None:
    frontend = saying("123456789")  # a token each
    frontend.hold_at[8] = asyncio.Event()

    def broken(self: object, tokens: int, since: float | None) -> None:
        if since is not None:
            raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("diptych.server.observe.Observer.gaps", broken)
    async with client_of(frontend) as client:
        response = await client.post(CHAT, json={"messages": MESSAGES, "stream": True})
    *chunks, last = events_of(response.text)
    assert chunks and last["error"]["code"] == "internal_error" and "secret" not in response.text
    assert frontend.live == [] and len(frontend.aborted) == 1


async def test_a_token_out_of_order_is_a_bug() -> None:
    frontend = FakeFrontend(lambda _: [*ids_of("abc"), EOS])
    plain = frontend._tokens
    frontend._tokens = lambda request: plain(request)[1:]
    async with client_of(frontend) as client:
        response = await client.post(CHAT, json={"messages": MESSAGES})
    assert response.status_code == 500 and frontend.live == []


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(ValueError, match="max_body_bites"):
        ServerConfig.model_validate({"max_body_bites": 1})
