"""Each token reaches its client once and in order, whatever workers repeat."""

from __future__ import annotations

import pytest

from diptych.domain.commands import DropWork, StartPrefill
from diptych.domain.errors import Bug
from diptych.domain.events import Streamed
from diptych.domain.ids import BlockHash, RequestId
from diptych.domain.lifecycle import State
from diptych.domain.report import RequestReport
from diptych.domain.request import Logprob, PromptLogprobs, SamplingParams, TokenOut, Work
from diptych.runtime.live import LiveRequests

RID = RequestId("r")


def _work(attempt: int) -> Work:
    sampling = SamplingParams(max_tokens=8, seed=0)
    root = BlockHash(bytes(16))
    return Work(
        request_id=RID,
        attempt=attempt,
        token_ids=(1, 2),
        prompt_tokens=2,
        sampling=sampling,
        cache_root=root,
        block_hashes=(),
    )


def _token(index: int, attempt: int = 0, token_id: int = 5) -> TokenOut:
    return TokenOut(request_id=RID, attempt=attempt, index=index, token_id=token_id)


def _prompt(attempt: int, start: int, entries: tuple[Logprob, ...]) -> PromptLogprobs:
    return PromptLogprobs(request_id=RID, attempt=attempt, start=start, entries=entries)


def _requests(attempt: int = 0) -> LiveRequests:
    requests = LiveRequests(kept_reports=2)
    requests.add(RID).sent(StartPrefill(_work(attempt)))
    return requests


def _report(request_id: str) -> RequestReport:
    return RequestReport(request_id=RequestId(request_id), state=State.FINISHED)


async def test_tokens_come_before_the_report_and_then_nothing() -> None:
    requests = _requests()
    request = requests.get(RID)
    assert request is not None
    requests.deliver([_token(0)], [])
    requests.deliver([_token(1)], [])
    assert requests.end(_report("r"))
    requests.deliver([_token(2)], [])
    assert not requests.end(_report("r"))
    assert await request.stream.next_batch() == [_token(0), _token(1), _report("r")]
    assert len(requests) == 0


def test_a_token_told_twice_or_too_early_is_dropped_and_counted() -> None:
    requests = _requests()
    requests.deliver([_token(0), _token(0, token_id=6), _token(2)], [])
    assert requests.streamed() == (Streamed(RID, (5,)),)
    assert requests.dropped_tokens == 2


def test_only_the_newest_attempt_counts() -> None:
    requests = _requests(attempt=1)
    requests.deliver([_token(0, attempt=0), _token(0, attempt=1, token_id=7)], [])
    assert requests.streamed() == (Streamed(RID, (7,)),)
    assert requests.dropped_tokens == 1


def test_an_attempt_that_was_called_off_says_nothing_more() -> None:
    """Else the next attempt, placed without that token, would differ from what the client has seen."""
    requests = _requests(attempt=1)
    request = requests.get(RID)
    assert request is not None
    request.sent(DropWork(RID, 1))
    requests.deliver([_token(0, attempt=1)], [])
    assert requests.streamed() == (Streamed(RID, ()),)
    request.sent(StartPrefill(_work(2)))
    requests.deliver([_token(0, attempt=2)], [])
    assert requests.streamed() == (Streamed(RID, (5,)),)


async def test_prompt_logprobs_of_a_repeated_prefill_come_once() -> None:
    requests = _requests()
    request = requests.get(RID)
    assert request is not None
    entries = tuple(Logprob(position, -1.0) for position in range(6))
    requests.deliver([], [_prompt(0, 1, entries[1:3])])
    request.sent(StartPrefill(_work(1)))
    requests.deliver(
        [], [_prompt(1, 1, entries[1:2]), _prompt(1, 2, entries[2:5]), _prompt(1, 5, entries[5:])]
    )
    heard = await request.stream.next_batch()
    assert heard == [_prompt(0, 1, entries[1:3]), _prompt(1, 3, entries[3:5]), _prompt(1, 5, entries[5:])]


def test_an_id_in_use_is_a_bug() -> None:
    requests = _requests()
    with pytest.raises(Bug):
        requests.add(RID)


def test_only_the_last_reports_are_kept() -> None:
    requests = LiveRequests(kept_reports=2)
    for name in ("a", "b", "c"):
        requests.add(RequestId(name))
        requests.end(_report(name))
    assert requests.report(RequestId("a")) is None
    assert requests.report(RequestId("c")) == _report("c")
