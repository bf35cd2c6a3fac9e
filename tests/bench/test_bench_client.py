"""One request over a socket: every moment is the script's, on a clock that only the script moves."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import pytest

from diptych.bench.client import HttpSender
from diptych.bench.sample import Outcome, Sample
from support.scripted_server import DONE, ManualClock, Script, Step, chunk, event, scripted, usage

BODY = b'{"prompt": [1, 2, 3]}'


async def exchange(
    script: Script, *, api_key: str | None = None, timeout_s: float = 20.0
) -> tuple[Sample, str]:
    """What a client sees of this script, and the head that it sent."""
    clock = ManualClock()
    sample = Sample(index=0, input_tokens=3, output_tokens=3, due_s=0.0)
    async with scripted(lambda _: script, clock) as (url, server):
        async with HttpSender(url, clock, api_key=api_key, timeout_s=timeout_s) as sender:
            await sender.send("/v1/completions", BODY, sample)
        return sample, server.headers[0]


def stream(*steps: tuple[float, bytes], headers_after_s: float = 0.0, cut: bool = False) -> Script:
    return Script([Step(*step) for step in steps], headers_after_s=headers_after_s, cut=cut)


async def test_moments_are_the_servers() -> None:
    sample, _ = await exchange(
        stream(
            (0.5, chunk("a")),
            (0.25, chunk("b")),
            (1.0, chunk("c", finish="length")),
            (2.0, usage(3, 3) + DONE),
            headers_after_s=0.5,
        )
    )
    assert (sample.sent_s, sample.headers_s, sample.end_s) == (0.0, 0.5, 4.25)
    assert sample.chunk_s == [1.0, 1.25, 2.25]
    assert (sample.ttft_s, sample.tpot_s, sample.e2e_s) == (1.0, 0.625, 2.25)
    assert sample.gaps_s == [0.25, 1.0]
    assert sample.outcome is Outcome.COMPLETED


async def test_a_slow_header_and_comments_are_no_token() -> None:
    sample, _ = await exchange(
        stream(
            (1.0, b": keep-alive\n\n"),
            (1.0, b": keep-alive\n\n"),
            (1.0, chunk("a", finish="stop") + usage(3, 1) + DONE),
            headers_after_s=5.0,
        )
    )
    assert (sample.headers_s, sample.ttft_s, sample.e2e_s) == (5.0, 8.0, 8.0)


async def test_events_that_come_together_and_in_halves() -> None:
    whole = chunk("c", finish="length")
    sample, _ = await exchange(
        stream((1.0, chunk("a") + chunk("b") + whole[:9]), (1.0, whole[9:] + usage(3, 3) + DONE))
    )
    assert sample.chunk_s == [1.0, 1.0, 2.0]
    assert sample.chunk_tokens == [1, 1, 1]


async def test_several_tokens_in_a_chunk() -> None:
    steps = [(1.0, chunk("ab", token_ids=[1, 2])), (0.9, chunk("cde", finish="length", token_ids=[3, 4, 5]))]
    sample, _ = await exchange(stream(*steps, (0.0, usage(3, 5) + DONE)))
    assert sample.chunk_tokens == [2, 3]
    assert sample.gaps_s == pytest.approx([0.3, 0.3, 0.3])


async def test_an_error_frame_fails_with_its_code() -> None:
    lost = event({"error": {"message": "gone", "type": "api_error", "code": "worker_lost"}})
    sample, _ = await exchange(stream((1.0, chunk("a")), (1.0, lost)))
    assert (sample.outcome, sample.error_code, sample.error_message) == (
        Outcome.FAILED,
        "worker_lost",
        "gone",
    )
    assert sample.chunk_s == [1.0]


@pytest.mark.parametrize("cut", [True, False])
async def test_a_stream_that_is_cut(cut: bool) -> None:
    sample, _ = await exchange(stream((1.0, chunk("a")), (1.0, chunk("b")), cut=cut))
    assert (sample.outcome, sample.error_code) == (Outcome.FAILED, "truncated_stream")


def refusal(status: int, code: str | None, headers: dict[str, str] | None = None) -> Script:
    body = event({"error": {"message": "no", "type": "t", "code": code}}).removeprefix(b"data: ")
    return Script([Step(0.5, body)], status=status, content_type="application/json", headers=headers or {})


@pytest.mark.parametrize(
    ("status", "code", "outcome"),
    [
        (503, "server_overloaded", Outcome.REJECTED),
        (429, "server_overloaded", Outcome.REJECTED),
        (429, "rate_limit_exceeded", Outcome.REJECTED),
        (529, "overloaded", Outcome.REJECTED),
        (503, "worker_lost", Outcome.FAILED),
        (400, "context_length_exceeded", Outcome.FAILED),
        (500, "internal_error", Outcome.FAILED),
    ],
)
async def test_refusals_are_no_failures(status: int, code: str, outcome: Outcome) -> None:
    sample, _ = await exchange(refusal(status, code, {"retry-after": "3"}))
    assert (sample.outcome, sample.error_code, sample.status) == (outcome, code, status)
    assert (sample.retry_after_s, sample.end_s) == (3.0, 0.5)


@pytest.mark.parametrize("after", ["Fri, 20 Nov 2026 10:00:00 GMT", "soon"])
async def test_a_retry_after_that_is_no_number(after: str) -> None:
    sample, _ = await exchange(refusal(503, "server_overloaded", {"retry-after": after}))
    assert sample.retry_after_s is None


async def test_a_body_without_an_error() -> None:
    page = Script([Step(0.0, b"<html>")], status=502, content_type="text/html")
    sample, _ = await exchange(page)
    assert (sample.outcome, sample.error_code) == (Outcome.FAILED, "http_502")


async def test_an_answer_that_is_no_stream() -> None:
    sample, _ = await exchange(Script([Step(0.0, b"{}")], content_type="application/json"))
    assert sample.error_code == "not_a_stream"


async def test_silence_ends_at_the_time_limit() -> None:
    sample, _ = await exchange(Script(silent=True), timeout_s=0.2)
    assert (sample.outcome, sample.error_code) == (Outcome.FAILED, "client_timeout")


async def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        sample = Sample(index=0, input_tokens=3, output_tokens=3, due_s=0.0)
        async with HttpSender(url, ManualClock(), api_key=None, timeout_s=5.0) as sender:
            await sender.send("/v1/completions", BODY, sample)
    assert (sample.outcome, sample.error_code) == (Outcome.FAILED, "connection_refused")


@pytest.mark.parametrize(("key", "sent"), [("secret", ["authorization: bearer secret"]), (None, [])])
async def test_the_key_is_sent(key: str | None, sent: Sequence[str]) -> None:
    _, head = await exchange(stream((0.0, chunk("a", finish="stop") + usage(3, 1) + DONE)), api_key=key)
    assert [line for line in head.lower().split("\r\n") if line.startswith("authorization")] == sent
