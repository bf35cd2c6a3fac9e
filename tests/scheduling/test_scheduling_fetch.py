"""KV from another memory domain: the sequence has its blocks at once and runs when they are filled."""

from __future__ import annotations

import pytest

from diptych.domain.commands import DropWork, FinishWork, Reserve, StartDecode, StartPrefill
from diptych.domain.errors import Bug
from diptych.domain.events import FETCH_FAILED, BlocksCached, Bounced, DecodeStarted, Dropped, Reserved
from diptych.domain.ids import RequestId, WorkerId
from diptych.domain.request import SamplingParams, Work
from diptych.domain.worker import Arena
from diptych.scheduling import NO_ROOM, Fetch
from support.one_worker import OneWorker
from support.toy_engine import ToyMemory
from support.works import make_work

PROMPT = tuple(range(10, 20))  # two and a half blocks of 4
NAME = RequestId("r0")
SOURCE = WorkerId("far")
FAR_BLOCKS = (40, 41, 42)


def work_of(attempt: int = 1) -> Work:
    sampling = SamplingParams(max_tokens=6, seed=1)
    return make_work(NAME, PROMPT, sampling, block_tokens=4, attempt=attempt)


def first_token(memory: ToyMemory) -> int:
    """What a worker elsewhere samples; its KV is left in `FAR_BLOCKS`."""
    far = OneWorker(memory=memory, arena=Arena(40, 3))
    far.tell(StartPrefill(make_work("x", PROMPT, SamplingParams(max_tokens=1, seed=1), block_tokens=4)))
    far.run()
    return far.output("x")[0]


def start(worker: OneWorker, token: int, promised: int = 4, attempt: int = 1) -> list[Fetch]:
    """Order a decode whose KV is far away; what has to travel."""
    assert isinstance(worker.tell(Reserve(work_of(attempt), promised))[-1], Reserved)
    worker.tell(StartDecode(NAME, attempt, (token,), FAR_BLOCKS, len(PROMPT), SOURCE))
    return worker.scheduler.drain_fetches()


def transfer(memory: ToyMemory, fetch: Fetch) -> None:
    for source, target in zip(fetch.source_block_ids, fetch.target_block_ids, strict=True):
        memory.copy(source, target)


def test_it_runs_once_the_blocks_are_filled_and_publishes_them():
    memory = ToyMemory(64, 4)
    token = first_token(memory)
    worker = OneWorker(memory=memory)
    (fetch,) = start(worker, token)
    assert fetch == (NAME, 1, SOURCE, FAR_BLOCKS, (0, 1, 2), 10)
    assert worker.scheduler.drain_fetches() == []
    assert worker.plan() is None
    stats = worker.scheduler.stats()
    assert (stats.waiting, stats.held_blocks, stats.reserved_blocks, stats.busy) == (1, 3, 1, False)
    transfer(memory, fetch)
    assert worker.scheduler.fetched(NAME, 1) == []
    worker.run()
    _, cached, started = worker.events[:3]
    assert isinstance(cached, BlocksCached)
    assert cached.block_ids == (0, 1)
    assert started == DecodeStarted(NAME, 1, copied_bytes=3 * memory.layout.block_bytes)
    assert len(worker.output("r0")) == 5
    assert worker.scheduler.stats().held_blocks == 0


def test_blocks_that_are_cached_here_do_not_travel():
    memory = ToyMemory(64, 4)
    token = first_token(memory)
    worker = OneWorker(memory=memory)
    worker.tell(
        StartPrefill(make_work("y", PROMPT[:8], SamplingParams(max_tokens=1, seed=1), block_tokens=4))
    )
    worker.run()
    assert worker.scheduler.stats().cached_blocks == 2
    (fetch,) = start(worker, token)
    assert (len(fetch.target_block_ids), fetch.source_block_ids, fetch.tokens) == (1, (42,), 2)
    assert worker.scheduler.stats().reserved_blocks == 1
    transfer(memory, fetch)
    worker.scheduler.fetched(NAME, 1)
    worker.run()
    assert len(worker.output("r0")) == 5


def test_no_room_for_the_blocks():
    worker = OneWorker(arena=Arena(0, 2))
    assert start(worker, 5, promised=2) == []
    assert worker.said(Bounced) == [Bounced(NAME, 1, NO_ROOM)]
    assert worker.scheduler.stats().reserved_blocks == 0
    assert not worker.scheduler.has_work()


def test_waking_cached_blocks_takes_room_too():
    worker = OneWorker(arena=Arena(0, 3))
    worker.tell(
        StartPrefill(make_work("y", PROMPT[:8], SamplingParams(max_tokens=1, seed=1), block_tokens=4))
    )
    worker.run()
    other = make_work("z", PROMPT, SamplingParams(max_tokens=1, seed=1), block_tokens=4)
    worker.tell(Reserve(other, 2))
    assert start(worker, 5, promised=1) == []
    assert worker.said(Bounced) == [Bounced(NAME, 1, NO_ROOM)]
    worker.tell(DropWork(other.request_id, 1))
    (fetch,) = start(worker, 5, promised=1, attempt=2)
    assert len(fetch.target_block_ids) == 1
    assert worker.scheduler.stats().held_blocks == 3


def test_a_failed_transfer_gives_the_sequence_back():
    worker = OneWorker()
    start(worker, 5)
    assert worker.scheduler.fetch_failed(NAME, 1) == [Bounced(NAME, 1, FETCH_FAILED)]
    stats = worker.scheduler.stats()
    assert stats.held_blocks == stats.reserved_blocks == stats.waiting == 0


@pytest.mark.parametrize("order", [DropWork(NAME, 1), FinishWork(NAME, 1)])
@pytest.mark.parametrize("failed", [False, True])
def test_a_drop_waits_for_the_end_of_the_transfer(order: DropWork | FinishWork, failed: bool):
    worker = OneWorker()
    start(worker, 5)
    assert worker.tell(order) == []
    assert worker.scheduler.stats().held_blocks == 3
    end = worker.scheduler.fetch_failed if failed else worker.scheduler.fetched
    events = end(NAME, 1)
    assert events[-1] == Dropped(NAME, 1)
    assert not any(isinstance(event, Bounced) for event in events)
    assert worker.scheduler.stats().held_blocks == 0
    assert worker.scheduler.stats().cached_blocks == (0 if failed else 2)
    worker.scheduler.check()


def test_a_transfer_that_nobody_has_begun_is_called_off():
    worker = OneWorker()
    worker.tell(Reserve(work_of(), 4))
    worker.tell(StartDecode(NAME, 1, (5,), FAR_BLOCKS, len(PROMPT), SOURCE))
    assert worker.tell(DropWork(NAME, 1)) == [Dropped(NAME, 1)]
    assert worker.scheduler.drain_fetches() == []
    with pytest.raises(Bug, match="no transfer"):
        worker.scheduler.fetched(NAME, 1)


def test_a_newer_attempt_may_fetch_while_the_older_one_still_does():
    worker = OneWorker()
    (first,) = start(worker, 5)
    (second,) = start(worker, 5, attempt=2)
    assert not set(first.target_block_ids) & set(second.target_block_ids)
    assert worker.scheduler.stats().waiting == 2
    assert worker.tell(DropWork(NAME, 1)) == []
    worker.scheduler.fetched(NAME, 2)
    assert worker.scheduler.fetched(NAME, 1)[-1] == Dropped(NAME, 1)
    assert worker.scheduler.stats().waiting == 1
    worker.scheduler.check()
