"""What the fault tests rely on: a stream that is not whole is noticed, whatever is wrong with it."""

from __future__ import annotations

from typing import Any

import httpx
import orjson
import pytest
from benchmarks.volley import Answer, Ask, Caller, Refusal, Wrong

ASK = Ask(number=0, prompt_token_ids=(400, 500), max_tokens=3, stream=True, fresh=True, frequency_penalty=0.0)
USAGE = {"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 3}}
DONE = "[DONE]"
LOST = {"error": {"message": "gone", "type": "api_error", "param": None, "code": "worker_lost"}}


def chunk(*token_ids: int, reason: str | None = None) -> dict[str, Any]:
    text = "".join(map(str, token_ids))
    return {"choices": [{"index": 0, "token_ids": list(token_ids), "text": text, "finish_reason": reason}]}


END = chunk(reason="length")


async def outcome(*events: Any) -> Answer | Refusal:
    """What a caller makes of this stream."""
    lines = [event if isinstance(event, str) else orjson.dumps(event).decode() for event in events]
    content = "".join(f"data: {line}\n\n" for line in lines)
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text=content))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        caller = Caller(http, ASK, "salt")
        await caller.end()
        return caller.outcome()


async def test_a_whole_stream_is_put_together() -> None:
    assert await outcome(chunk(1), chunk(2, 3), END, USAGE, DONE) == Answer((1, 2, 3), "123", "length")


async def test_a_typed_error_may_end_a_stream() -> None:
    assert await outcome(chunk(1), LOST) == Refusal(200, "worker_lost", None, (1,))


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([chunk(1), chunk(2), chunk(2), chunk(3), END, USAGE, DONE], id="a token twice"),
        pytest.param([chunk(1), chunk(3), END, USAGE, DONE], id="a token missing"),
        pytest.param([chunk(1), chunk(2, 3), END, END, USAGE, DONE], id="two ends"),
        pytest.param([chunk(1), END, chunk(2, 3), USAGE, DONE], id="tokens after the end"),
        pytest.param([chunk(1), chunk(2, 3), END, USAGE, DONE, DONE], id="done twice"),
        pytest.param([chunk(1), chunk(2, 3), END, USAGE], id="not done"),
        pytest.param([chunk(1), chunk(2, 3), USAGE, DONE], id="no reason"),
        pytest.param([chunk(1), chunk(2, 3), END, LOST], id="an error after the end"),
        pytest.param([], id="nothing"),
    ],
)
async def test_anything_else_is_wrong(events: list[Any]) -> None:
    with pytest.raises(Wrong):
        await outcome(*events)
