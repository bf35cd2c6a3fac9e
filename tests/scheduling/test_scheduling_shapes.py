"""Steps without an engine: told by their sizes, finished without tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import msgspec
import pytest

from diptych.domain.commands import Reserve, StartDecode, StartPrefill
from diptych.domain.errors import Bug
from diptych.domain.events import BlocksCached, DecodeStarted, Finished, PrefillStarted
from diptych.domain.ids import BlockHash, BlockId, RequestId
from diptych.domain.request import FinishReason, SamplingParams
from diptych.domain.worker import Arena
from diptych.scheduling import Scheduler, SchedulerConfig
from support.shapes import of_steady, of_step
from support.works import make_work

BLOCK_TOKENS = 4
GOES_ON, END = 1, 0


def scheduler_of(budget: int = 8, chunked: bool = True) -> Scheduler:
    return Scheduler(SchedulerConfig(Arena(0, 32), BLOCK_TOKENS, budget, 8, 64, chunked_prefill=chunked))


def arrive(scheduler: Scheduler, name: str, tokens: int, max_tokens: int = 9) -> None:
    sampling = SamplingParams(max_tokens=max_tokens, seed=0, stop_token_ids=(END,))
    work = make_work(name, range(1, tokens + 1), sampling, block_tokens=BLOCK_TOKENS)
    scheduler.handle(StartPrefill(work))


def test_a_prompt_and_then_its_decode():
    scheduler = scheduler_of()
    arrive(scheduler, "a", 10)
    first = scheduler.begin()
    assert of_step(first) == (0, [(RequestId("a"), 8, 0, False)], 0, 0, (), (), 0)
    assert scheduler.drain_events() == [PrefillStarted(RequestId("a"), 1, 0)]
    scheduler.finish(GOES_ON, {})
    second = scheduler.begin()
    assert of_step(second) == (1, [(RequestId("a"), 2, 8, True)], 0, 0, (), (), 0)
    assert scheduler.finish(GOES_ON, {})[-1] == DecodeStarted(RequestId("a"), 1)
    third = scheduler.begin()
    assert of_step(third) == (2, [], 1, 10, (), (), 0)
    scheduler.finish(GOES_ON, {})
    assert of_steady(scheduler.steady()) == (1, 11, 6)
    assert of_steady(scheduler.steady(at_most=4)) == (1, 11, 4)
    scheduler.check()


def test_some_sample_something_of_their_own():
    scheduler = scheduler_of()
    arrive(scheduler, "a", 2)
    arrive(scheduler, "b", 3)
    scheduler.begin()
    events = scheduler.finish(GOES_ON, {RequestId("b"): END})
    assert Finished(RequestId("b"), 1, FinishReason.STOP) in events
    scheduler.begin()
    assert scheduler.finish(GOES_ON, {RequestId("a"): END}) == [
        Finished(RequestId("a"), 1, FinishReason.STOP)
    ]
    assert scheduler.begin() is None
    scheduler.check()


def test_the_limit_of_the_output_ends_a_sequence():
    scheduler = scheduler_of()
    arrive(scheduler, "a", 2, max_tokens=2)
    scheduler.begin()
    scheduler.finish(GOES_ON, {})
    scheduler.begin()
    assert scheduler.finish(GOES_ON, {}) == [Finished(RequestId("a"), 1, FinishReason.LENGTH)]


def test_more_decodes_than_the_budget():
    scheduler = scheduler_of(budget=2, chunked=False)
    for name in "abc":
        arrive(scheduler, name, 1)
        scheduler.begin()
        scheduler.finish(GOES_ON, {})
    assert scheduler.steady() is None
    shape = scheduler.begin()
    assert shape is not None
    assert (shape.decodes, shape.left_out) == (2, (RequestId("c"),))
    assert scheduler.finish(GOES_ON, {RequestId("a"): END})[-1] == Finished(
        RequestId("a"), 1, FinishReason.STOP
    )
    shape = scheduler.begin()
    assert shape is not None
    assert (shape.decodes, shape.context_tokens, shape.left_out) == (2, 3, ())
    scheduler.finish(GOES_ON, {})
    scheduler.check()


def test_imports_are_named():
    scheduler = scheduler_of()
    work = make_work("a", (1, 2, 3, 4, 5), SamplingParams(max_tokens=9, seed=0), block_tokens=BLOCK_TOKENS)
    scheduler.handle(Reserve(work, 1))
    scheduler.handle(StartDecode(work.request_id, 1, (6,), (90, 91), 5))
    assert of_step(scheduler.begin()) == (0, [], 1, 5, (RequestId("a"),), (), 1)


def test_a_step_is_begun_once_and_finished_once():
    scheduler = scheduler_of()
    with pytest.raises(Bug, match="none is under way"):
        scheduler.finish(GOES_ON, {})
    arrive(scheduler, "a", 1)
    scheduler.begin()
    with pytest.raises(Bug, match="while one is under way"):
        scheduler.begin()
    scheduler.finish(GOES_ON, {})
    scheduler.begin()
    with pytest.raises(Bug, match="ends a sequence"):
        scheduler.finish(END, {})


@pytest.mark.parametrize("kind", [range, lambda first, last: bytes(range(first, last))])
def test_a_prompt_may_be_any_sequence_of_numbers(kind: Callable[[int, int], Sequence[int]]):
    """A simulator has no tokens: a `range` stands for them, and is named and matched like a tuple."""
    prompt = kind(3, 33)
    sampling = SamplingParams(max_tokens=12, seed=0)
    caches: list[dict[BlockHash, BlockId]] = []
    for tokens in (prompt, tuple(prompt)):
        work = make_work("a", tuple(prompt), sampling, block_tokens=BLOCK_TOKENS)
        work = msgspec.structs.replace(work, token_ids=cast("tuple[int, ...]", tokens), block_hashes=())
        scheduler = scheduler_of(budget=64)
        scheduler.handle(StartPrefill(work))
        scheduler.begin()
        scheduler.finish(GOES_ON, {})
        scheduler.leap(10, GOES_ON)
        assert scheduler.begin()
        news = scheduler.finish(GOES_ON, {RequestId("a"): END})
        caches.append({})
        for event in news:
            if isinstance(event, BlocksCached):
                caches[-1].update(zip(event.hashes, event.block_ids, strict=True))
        scheduler.check()
    assert caches[0] == caches[1]
    assert len(caches[0]) == 3


def test_ends_are_told_in_order():
    scheduler = scheduler_of()
    for name in "ab":
        arrive(scheduler, name, 1)
        scheduler.begin()
        scheduler.finish(GOES_ON, {})
    scheduler.begin()
    events = scheduler.finish(GOES_ON, {RequestId("b"): END, RequestId("a"): END})
    assert [event.request_id for event in events if isinstance(event, Finished)] == ["a", "b"]
