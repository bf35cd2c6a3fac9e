"""Rules of the scheduler, one by one. Blocks hold 4 tokens; prompts count up, so their content is clear."""

from __future__ import annotations

import pytest

from diptych.domain.commands import (
    DropWork,
    FinishWork,
    LeaseBlocks,
    ReleaseLease,
    Reserve,
    StartDecode,
    StartPrefill,
)
from diptych.domain.errors import Bug, SpecError
from diptych.domain.events import (
    BlocksCached,
    BlocksEvicted,
    Bounced,
    DecodeStarted,
    Dropped,
    Finished,
    Leased,
    PrefillDone,
    PrefillStarted,
    Reserved,
    ReserveRefused,
)
from diptych.domain.ids import BlockHash, BlockId, LeaseId, RequestId, TokenId
from diptych.domain.request import FinishReason, SamplingParams, Work
from diptych.domain.step import StepResult
from diptych.domain.worker import Arena
from diptych.scheduling import KV_PRESSURE, NO_ROOM, TOO_LARGE, SchedulerConfig
from support.one_worker import OneWorker
from support.toy_engine import ToyMemory, ToyModel, reference_output, reference_prompt_logprobs
from support.works import make_work

BT = 4
R = RequestId("r")
EXPORT = LeaseId("export")


def sampling(max_tokens: int = 4, **more) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, seed=7, **more)


def count(tokens: int, first: TokenId = 1) -> tuple[TokenId, ...]:
    return tuple(range(first, first + tokens))


def work(name: str = "r", prompt: tuple[TokenId, ...] = count(6), max_tokens: int = 4, **more) -> Work:
    params = more.pop("params", None) or sampling(max_tokens)
    return make_work(name, prompt, params, block_tokens=BT, **more)


def start(
    name: str = "r", prompt: tuple[TokenId, ...] = count(6), max_tokens: int = 4, **more
) -> StartPrefill:
    return StartPrefill(work(name, prompt, max_tokens, **more))


def exported(prefill: OneWorker, prompt: tuple[TokenId, ...] = count(6), max_tokens: int = 4) -> StartDecode:
    """Prefill on one worker; the order with which another goes on."""
    prefill.tell(StartPrefill(work("r", prompt, max_tokens), export_lease=EXPORT))
    prefill.run()
    (done,) = prefill.said(PrefillDone)
    assert isinstance(done, PrefillDone)
    return StartDecode(R, 1, tuple(prefill.output("r")), done.block_ids, done.computed_tokens)


# ---------------------------------------------------------------- one request


def test_a_request_runs_from_prompt_to_limit() -> None:
    worker = OneWorker()
    worker.tell(start())
    worker.run()
    assert worker.output("r") == reference_output(count(6), sampling())
    assert [token.index for token in worker.tokens] == [0, 1, 2, 3]
    assert [token.finish_reason for token in worker.tokens] == [None, None, None, FinishReason.LENGTH]
    kinds = [type(event) for event in worker.events if not isinstance(event, BlocksCached)]
    assert kinds == [PrefillStarted, DecodeStarted, Finished]
    assert not worker.scheduler.has_work()


def test_kv_of_the_last_token_is_never_computed() -> None:
    worker = OneWorker()
    worker.tell(start())
    plans = worker.run()
    assert [plan.tokens for plan in plans] == [6, 1, 1, 1]
    stats = worker.scheduler.stats()
    assert (stats.prefill_tokens_total, stats.decode_tokens_total) == (6, 3)
    assert (stats.steps, stats.decode_steps_total) == (4, 3)


def test_a_stop_token_ends_the_output() -> None:
    params = sampling(50, stop_token_ids=(96,))
    model = ToyModel(stop_probability=0.3)
    worker = OneWorker(model=model)
    worker.tell(start(params=params))
    worker.run()
    assert worker.output("r") == reference_output(count(6), params, model)
    assert worker.tokens[-1].finish_reason is FinishReason.STOP
    assert worker.tokens[-1].stop_token_id == 96
    assert worker.events[-1] == Finished(request_id=R, attempt=1, finish_reason=FinishReason.STOP)


def test_a_stop_token_at_the_limit_counts_as_stop() -> None:
    worker = OneWorker(model=ToyModel(stop_probability=1.0))
    worker.tell(start(params=sampling(1, stop_token_ids=(96,))))
    worker.run()
    assert worker.tokens[-1].finish_reason is FinishReason.STOP


def test_a_first_token_that_is_the_last_starts_no_decode() -> None:
    worker = OneWorker()
    worker.tell(start(max_tokens=1))
    worker.run()
    assert not worker.said(DecodeStarted)
    assert len(worker.said(Finished)) == 1


def test_a_resumed_request_goes_on_at_its_index() -> None:
    expected = reference_output(count(6), sampling(8))
    worker = OneWorker()
    worker.tell(start(max_tokens=8, output=expected[:5], attempt=3))
    worker.run()
    assert worker.output("r") == expected[5:]
    assert [token.index for token in worker.tokens] == [5, 6, 7]
    assert {token.attempt for token in worker.tokens} == {3}


def test_prompt_logprobs_come_with_every_chunk_and_read_no_cache() -> None:
    params = sampling(2, prompt_logprobs=0)
    worker = OneWorker(token_budget=4)
    worker.tell(start("warm", count(10), 1))
    worker.run()
    worker.tell(start("r", count(10), params=params))
    worker.run()
    assert worker.said(PrefillStarted)[-1] == PrefillStarted(request_id=R, attempt=1, cached_tokens=0)
    assert [found.start for found in worker.prompt_logprobs] == [1, 5, 9]
    entries = [entry for found in worker.prompt_logprobs for entry in found.entries]
    assert entries == reference_prompt_logprobs(count(10))


# ---------------------------------------------------------------- the loop


def test_two_plans_in_flight_are_a_bug() -> None:
    worker = OneWorker()
    worker.tell(start())
    worker.plan()
    with pytest.raises(Bug):
        worker.plan()


def test_a_step_is_committed_once() -> None:
    worker = OneWorker()
    worker.tell(start())
    plan = worker.step()
    with pytest.raises(Bug):
        worker.scheduler.commit(plan, StepResult(sampled={}))


def test_a_missing_token_is_a_bug() -> None:
    worker = OneWorker()
    worker.tell(start())
    plan = worker.plan()
    assert plan is not None
    with pytest.raises(Bug):
        worker.scheduler.commit(plan, StepResult(sampled={}))


def test_an_idle_worker_plans_nothing() -> None:
    worker = OneWorker()
    assert worker.plan() is None
    assert not worker.scheduler.stats().busy


def test_new_and_ended_are_told_once() -> None:
    worker = OneWorker()
    worker.tell(start("a", max_tokens=2))
    plans = worker.run()
    worker.tell(start("b", max_tokens=2))
    plans += worker.run()
    assert [tuple(new.request_id for new in plan.new) for plan in plans] == [("a",), (), ("b",), ()]
    assert [plan.ended for plan in plans] == [(), (), ("a",), ()]


def test_events_of_plan_wait_for_whoever_empties_the_outbox_next() -> None:
    worker = OneWorker()
    worker.scheduler.handle(start())
    worker.scheduler.plan()
    events = worker.scheduler.handle(Reserve(work("other"), 1))
    assert [type(event) for event in events] == [PrefillStarted, Reserved]
    assert worker.scheduler.drain_events() == []


def test_sizes_must_be_positive() -> None:
    with pytest.raises(SpecError):
        SchedulerConfig(Arena(0, 4), 4, 0, 1, 64)


# ---------------------------------------------------------------- batching


def test_decodes_come_first_and_prompts_share_what_is_left() -> None:
    worker = OneWorker(token_budget=8)
    worker.tell(start("a", count(6), 9))
    worker.step()
    worker.tell(start("b", count(10, 30)))
    worker.tell(start("c", count(3, 60), arrival_s=1.0))
    second, third = worker.step(), worker.step()
    assert [(piece.request_id, len(piece.token_ids)) for piece in second.slices] == [("a", 1), ("b", 7)]
    assert [(piece.request_id, len(piece.token_ids)) for piece in third.slices] == [
        ("a", 1),
        ("b", 3),
        ("c", 3),
    ]
    assert [piece.sample for piece in second.slices] == [True, False]
    worker.run()
    assert worker.output("b") == reference_output(count(10, 30), sampling())


def test_no_more_than_max_running_hold_blocks() -> None:
    worker = OneWorker(max_running=2)
    for name in "abc":
        worker.tell(start(name, count(3, 10 * ord(name) - 900)))
    plans = worker.run()
    assert max(len(plan.slices) for plan in plans) == 2
    assert len(worker.said(Finished)) == 3


def test_priority_then_arrival_decides() -> None:
    worker = OneWorker(max_running=1)
    worker.tell(start("late", arrival_s=3.0))
    worker.tell(start("early", arrival_s=2.0))
    worker.tell(start("urgent", arrival_s=4.0, priority=-1))
    worker.run()
    ends = [event.request_id for event in worker.events if isinstance(event, Finished)]
    assert ends == ["urgent", "early", "late"]


def test_a_more_urgent_prompt_gets_the_chunks_of_one_half_done() -> None:
    worker = OneWorker(token_budget=4)
    worker.tell(start("long", count(12, 30)))
    worker.step()
    worker.tell(start("urgent", count(4, 60), priority=-1))
    plan = worker.step()
    assert [piece.request_id for piece in plan.slices] == ["urgent"]


def test_a_small_prompt_does_not_overtake_a_large_one() -> None:
    worker = OneWorker(arena=Arena(0, 6))
    worker.tell(start("a", count(12, 10), 2))  # 3 blocks and one to grow
    worker.tell(start("large", count(16, 30), 1, arrival_s=1.0))
    worker.tell(start("small", count(2, 60), 1, arrival_s=2.0))
    first = worker.step()
    assert [piece.request_id for piece in first.slices] == ["a"]
    assert [new.request_id for plan in worker.run() for new in plan.new] == ["large", "small"]


def test_a_prompt_leaves_a_block_to_each_who_grows() -> None:
    worker = OneWorker(arena=Arena(0, 4))
    worker.tell(start("a", count(4), 3))
    worker.step()
    worker.tell(start("b", count(12, 30), 1, arrival_s=1.0))
    assert [piece.request_id for piece in worker.step().slices] == ["a"]
    worker.run()
    assert not worker.said(Bounced)


def test_waiting_for_memory_is_not_busy() -> None:
    worker = OneWorker(arena=Arena(0, 4))
    worker.tell(Reserve(work("other"), 3))
    worker.tell(start("a", count(6)))
    assert worker.plan() is None
    stats = worker.scheduler.stats()
    assert (stats.waiting, stats.queued_tokens, stats.busy) == (1, 6, False)
    assert worker.scheduler.has_work()
    worker.tell(DropWork(RequestId("other"), 1))
    assert worker.scheduler.stats().busy
    worker.run()
    assert len(worker.output("a")) == 4


def test_stats_count_half_done_prompts() -> None:
    worker = OneWorker(token_budget=4)
    worker.tell(start("a", count(10)))
    worker.step()
    stats = worker.scheduler.stats()
    assert (stats.running, stats.waiting, stats.queued_tokens, stats.held_blocks) == (1, 0, 6, 3)


# ---------------------------------------------------------------- prompt cache


def test_full_blocks_are_told_with_the_next_answer_in_one_piece() -> None:
    worker = OneWorker(token_budget=6)
    worker.tell(start("r", count(10), 4))
    worker.step()
    assert worker.said(BlocksCached) == []
    before = len(worker.events)
    worker.step()
    cached, started = worker.events[before:]
    assert isinstance(cached, BlocksCached)
    assert cached.hashes == work(prompt=count(10)).block_hashes[:2]
    assert isinstance(started, DecodeStarted)


def test_news_keep_their_order_and_nothing_is_lost() -> None:
    """An index that follows what is said knows exactly what is cached, whatever was evicted in between."""
    worker = OneWorker(arena=Arena(0, 6))
    index: dict[BlockHash, BlockId] = {}
    for turn in range(12):
        worker.tell(start(f"r{turn}", tuple(range(100 * (turn % 5), 100 * (turn % 5) + 9 + turn % 3)), 6))
        worker.run()
    for event in worker.events:
        if isinstance(event, BlocksCached):
            assert not index.keys() & set(event.hashes)
            index.update(zip(event.hashes, event.block_ids, strict=True))
        elif isinstance(event, BlocksEvicted):
            for block_hash in event.hashes:
                del index[block_hash]
    assert len(worker.said(BlocksEvicted)) > 3
    assert len(index) == len(set(index.values())) == worker.scheduler.stats().cached_blocks


def test_decode_publishes_too_and_the_next_turn_finds_it() -> None:
    worker = OneWorker()
    worker.tell(start("r", count(6), 7))
    worker.run()
    prompt = (*count(6), *worker.output("r"), 90, 91)
    worker.tell(start("next", prompt, 2))
    worker.run()
    started = worker.said(PrefillStarted)[-1]
    assert started == PrefillStarted(request_id=RequestId("next"), attempt=1, cached_tokens=12)
    assert worker.output("next") == reference_output(prompt, sampling(2))


def test_a_resumed_request_finds_the_blocks_of_its_own_output() -> None:
    worker = OneWorker()
    worker.tell(start("r", count(6), 12))
    for _ in range(9):
        worker.step()
    worker.tell(DropWork(R, 1))
    worker.tell(start("r", count(6), 12, output=worker.output("r"), attempt=2))
    worker.run()
    assert worker.said(PrefillStarted)[-1] == PrefillStarted(request_id=R, attempt=2, cached_tokens=12)
    assert worker.output("r") == reference_output(count(6), sampling(12))


@pytest.mark.parametrize(("tokens", "cached"), [(8, 4), (9, 8), (4, 0), (3, 0)])
def test_at_least_one_token_is_computed(tokens: int, cached: int) -> None:
    worker = OneWorker()
    for name in ("first", "second"):
        worker.tell(start(name, count(tokens), 2))
        worker.run()
    assert worker.output("second") == worker.output("first")
    assert worker.said(PrefillStarted)[-1] == PrefillStarted(
        request_id=RequestId("second"), attempt=1, cached_tokens=cached
    )


def test_equal_content_is_published_once() -> None:
    worker = OneWorker()
    worker.tell(start("a", count(6)))
    worker.tell(start("b", count(6)))
    worker.run()
    hashes = [name for event in worker.events if isinstance(event, BlocksCached) for name in event.hashes]
    assert len(set(hashes)) == len(hashes)
    stats = worker.scheduler.stats()
    assert (stats.held_blocks, stats.cached_blocks) == (0, len(hashes))


def test_without_prompt_cache_nothing_is_kept() -> None:
    worker = OneWorker(prompt_cache=False)
    for name in ("a", "b"):
        worker.tell(start(name, count(9)))
        worker.run()
    assert not worker.said(BlocksCached)
    assert worker.said(PrefillStarted)[-1] == PrefillStarted(
        request_id=RequestId("b"), attempt=1, cached_tokens=0
    )
    assert worker.scheduler.stats().free_blocks == 16


def test_memory_is_made_by_eviction() -> None:
    worker = OneWorker(arena=Arena(0, 4))
    worker.tell(start("a", count(8), 2))
    worker.run()
    worker.tell(start("b", count(13, 30), 2))
    worker.run()
    assert worker.output("b") == reference_output(count(13, 30), sampling(2))
    evicted = [name for event in worker.events if isinstance(event, BlocksEvicted) for name in event.hashes]
    assert evicted == list(reversed(work(prompt=count(8)).block_hashes))


# ---------------------------------------------------------------- leases and borrowing


def test_a_lease_holds_cached_blocks() -> None:
    worker = OneWorker()
    worker.tell(start("a", count(9), 1))
    worker.run()
    hashes = work(prompt=count(9)).block_hashes
    (leased,) = worker.tell(LeaseBlocks(EXPORT, hashes))
    assert isinstance(leased, Leased)
    assert len(leased.block_ids) == 2
    stats = worker.scheduler.stats()
    assert (stats.held_blocks, stats.cached_blocks, stats.leases) == (2, 0, 1)
    assert worker.tell(ReleaseLease(EXPORT)) == []
    assert worker.scheduler.stats().cached_blocks == 2
    assert worker.tell(ReleaseLease(EXPORT)) == []


def test_borrowed_blocks_are_read_where_they_are() -> None:
    memory = ToyMemory(32, BT)
    owner, borrower = OneWorker(memory=memory), OneWorker(memory=memory, arena=Arena(16, 16))
    owner.tell(start("a", count(9), 1))
    owner.run()
    (leased,) = owner.tell(LeaseBlocks(EXPORT, work(prompt=count(9)).block_hashes))
    assert isinstance(leased, Leased)
    borrower.tell(StartPrefill(work("r", count(9)), borrowed=dict(enumerate(leased.block_ids))))
    (first, *_) = borrower.run()
    assert first.slices[0].block_table[:2] == leased.block_ids
    assert first.tokens == 1
    assert borrower.output("r") == reference_output(count(9), sampling())


def test_borrowed_and_cached_blocks_continue_each_other_and_a_gap_ends_the_match() -> None:
    memory = ToyMemory(32, BT)
    owner, borrower = OneWorker(memory=memory), OneWorker(memory=memory, arena=Arena(16, 16))
    for worker, tokens in ((owner, 17), (borrower, 5)):
        worker.tell(start("a", count(tokens), 1))
        worker.run()
    (leased,) = owner.tell(LeaseBlocks(EXPORT, work(prompt=count(17)).block_hashes))
    assert isinstance(leased, Leased)
    borrowed: dict[int, BlockId] = {1: leased.block_ids[1], 3: leased.block_ids[3]}
    borrower.tell(StartPrefill(work("r", count(17)), borrowed=borrowed))
    (first, *_) = borrower.run()
    assert first.slices[0].start == 8  # 0 from its own cache, 1 lent, 2 nowhere
    assert borrower.output("r") == reference_output(count(17), sampling())


def test_adopted_leases_are_held_until_released() -> None:
    worker = OneWorker(arena=Arena(0, 4), adopted={EXPORT: (0, 1)})
    worker.tell(start("a", count(12), 1))
    assert worker.plan() is None
    worker.tell(ReleaseLease(EXPORT))
    worker.run()
    assert len(worker.output("a")) == 1


# ---------------------------------------------------------------- hand-over


@pytest.mark.parametrize("tokens", [3, 4, 6, 8])
def test_decode_goes_on_where_prefill_ended(tokens: int) -> None:
    memory = ToyMemory(32, BT)
    prefill, decode = OneWorker(memory=memory), OneWorker(memory=memory, arena=Arena(16, 16))
    decode.tell(Reserve(work("r", count(tokens), 9), 2))
    decode.tell(exported(prefill, count(tokens), 9))
    first = decode.step()
    partial = bool(tokens % BT)
    assert len(first.copies) == partial
    assert decode.said(DecodeStarted) == [
        DecodeStarted(request_id=R, attempt=1, copied_bytes=partial * memory.layout.block_bytes)
    ]
    decode.run()
    assert prefill.output("r") + decode.output("r") == reference_output(count(tokens), sampling(9))


def test_export_holds_the_blocks_until_released() -> None:
    memory = ToyMemory(32, BT)
    prefill = OneWorker(memory=memory)
    order = exported(prefill)
    (done,) = prefill.said(PrefillDone)
    assert done == PrefillDone(request_id=R, attempt=1, block_ids=order.block_ids, computed_tokens=6)
    stats = prefill.scheduler.stats()
    assert (stats.held_blocks, stats.leases, stats.running) == (2, 1, 0)
    assert prefill.tell(DropWork(R, 1)) == [Dropped(request_id=R, attempt=1)]
    assert prefill.scheduler.stats().held_blocks == 2
    prefill.tell(ReleaseLease(EXPORT))
    stats = prefill.scheduler.stats()
    assert (stats.held_blocks, stats.cached_blocks) == (0, 1)


def test_a_prompt_whose_first_token_is_the_last_exports_nothing() -> None:
    prefill = OneWorker()
    prefill.tell(StartPrefill(work(max_tokens=1), export_lease=EXPORT))
    prefill.run()
    assert not prefill.said(PrefillDone)
    assert prefill.scheduler.stats().leases == 0


def test_a_decode_draws_its_reservation_before_anything_else() -> None:
    memory = ToyMemory(32, BT)
    prefill, decode = OneWorker(memory=memory), OneWorker(memory=memory, arena=Arena(16, 4))
    assert decode.tell(Reserve(work(max_tokens=9), 2)) == [Reserved(request_id=R, attempt=1)]
    decode.tell(exported(prefill, count(6), 9))
    decode.step()
    assert decode.scheduler.stats().reserved_blocks == 1
    decode.run()
    stats = decode.scheduler.stats()
    assert (stats.reserved_blocks, stats.held_blocks) == (0, 0)


def test_what_is_left_of_a_reservation_is_given_back() -> None:
    memory = ToyMemory(32, BT)
    prefill, decode = OneWorker(memory=memory), OneWorker(memory=memory, arena=Arena(16, 4))
    decode.tell(Reserve(work(max_tokens=3), 4))
    decode.tell(exported(prefill, count(6), 3))
    decode.run()
    assert decode.scheduler.stats().reserved_blocks == 0


def test_reserving_more_than_there_is_is_refused() -> None:
    worker = OneWorker(arena=Arena(0, 4))
    worker.tell(Reserve(work("a"), 3))
    assert worker.tell(Reserve(work(), 2)) == [ReserveRefused(request_id=R, attempt=1, available_blocks=1)]
    assert worker.tell(Reserve(work("a", attempt=2), 4)) == [Reserved(request_id=RequestId("a"), attempt=2)]


def test_an_import_without_room_is_given_back() -> None:
    memory = ToyMemory(32, BT)
    prefill, decode = OneWorker(memory=memory), OneWorker(memory=memory, arena=Arena(16, 4))
    decode.tell(Reserve(work(), 0))
    decode.tell(Reserve(work("other"), 4))
    decode.tell(exported(prefill))
    assert decode.plan() is None
    assert decode.events[-1] == Bounced(request_id=R, attempt=1, reason=NO_ROOM)
    assert not decode.scheduler.has_work()


def test_an_import_waits_for_a_seat() -> None:
    memory = ToyMemory(32, BT)
    prefill = OneWorker(memory=memory)
    decode = OneWorker(memory=memory, arena=Arena(16, 8), max_running=1)
    decode.tell(start("a", count(3, 40), 3))
    decode.step()
    decode.tell(Reserve(work(), 2))
    decode.tell(exported(prefill))
    decode.step()
    assert not decode.said(DecodeStarted)[1:]
    decode.run()
    assert prefill.output("r") + decode.output("r") == reference_output(count(6), sampling())


def test_an_import_must_match_its_tokens() -> None:
    for block_ids, computed_tokens in (((40, 41), 5), ((40,), 6)):
        worker = OneWorker()
        worker.tell(Reserve(work(), 1))
        with pytest.raises(Bug):
            worker.tell(StartDecode(R, 1, (9,), block_ids, computed_tokens))


@pytest.mark.parametrize("attempt", [1, 3])
def test_nobody_decodes_without_a_reservation(attempt: int) -> None:
    worker = OneWorker()
    worker.tell(Reserve(work(attempt=2), 1))
    with pytest.raises(Bug):
        worker.tell(StartDecode(R, attempt, (9,), (40, 41), 6))


# ---------------------------------------------------------------- pressure


def test_the_newest_is_bounced_when_a_decode_cannot_grow() -> None:
    worker = OneWorker(arena=Arena(0, 4), prompt_cache=False)
    worker.tell(start("old", count(4), 9))
    worker.tell(start("new", count(4, 30), 9, arrival_s=1.0))
    worker.run()
    assert worker.said(Bounced) == [Bounced(request_id=RequestId("new"), attempt=1, reason=KV_PRESSURE)]
    assert worker.output("old") == reference_output(count(4), sampling(9))
    so_far = worker.output("new")
    worker.tell(start("new", count(4, 30), 9, output=so_far, attempt=2, arrival_s=1.0))
    worker.run()
    assert worker.output("new") == reference_output(count(4, 30), sampling(9))


def test_low_priority_is_bounced_before_late_arrival() -> None:
    worker = OneWorker(arena=Arena(0, 4), prompt_cache=False)
    worker.tell(start("low", count(4), 9, priority=1))
    worker.tell(start("late", count(4, 30), 9, arrival_s=1.0))
    worker.run()
    assert worker.said(Bounced) == [Bounced(request_id=RequestId("low"), attempt=1, reason=KV_PRESSURE)]


def test_a_lone_decode_that_cannot_grow_gives_itself_back() -> None:
    worker = OneWorker(arena=Arena(0, 2))
    worker.tell(start("r", count(4), 9))
    worker.step()
    worker.tell(Reserve(work("other"), 1))
    assert worker.plan() is None
    assert worker.events[-1] == Bounced(request_id=R, attempt=1, reason=KV_PRESSURE)


def test_whoever_waits_takes_the_place_of_a_lone_decode_that_gave_itself_back() -> None:
    worker = OneWorker(arena=Arena(0, 4), prompt_cache=False)
    worker.tell(start("r", count(12), 9))
    worker.step()
    worker.tell(start("next", count(12, 30), 1, arrival_s=1.0))
    worker.tell(Reserve(work("other"), 1))
    plan = worker.step()
    assert worker.said(Bounced) == [Bounced(request_id=R, attempt=1, reason=KV_PRESSURE)]
    assert [piece.request_id for piece in plan.slices] == ["next"]
    assert plan.ended == ("r",)


def test_a_prompt_larger_than_the_arena_is_given_back() -> None:
    worker = OneWorker(arena=Arena(0, 2))
    worker.tell(start("r", count(9)))
    worker.tell(start("small", count(3), arrival_s=1.0))
    worker.run()
    assert worker.said(Bounced) == [Bounced(request_id=R, attempt=1, reason=TOO_LARGE)]
    assert len(worker.output("small")) == 4


# ---------------------------------------------------------------- drops and attempts


@pytest.mark.parametrize("order", [DropWork, FinishWork])
def test_a_drop_is_answered_at_once_unless_a_step_computes_with_it(
    order: type[DropWork] | type[FinishWork],
) -> None:
    worker = OneWorker()
    worker.tell(start("r", count(9), 5))
    plan = worker.plan()
    assert plan is not None
    assert worker.tell(order(R, 1)) == []
    assert worker.tell(order(R, 1)) == []
    worker.commit(plan)
    assert worker.said(Dropped) == [Dropped(request_id=R, attempt=1)] * 2
    assert worker.tokens == []
    stats = worker.scheduler.stats()
    assert (stats.held_blocks, stats.cached_blocks) == (0, 2)


def test_a_drop_reaches_requests_that_wait_run_or_are_reserved() -> None:
    worker = OneWorker(max_running=1)
    worker.tell(start("runs", count(3), 9))
    worker.step()
    worker.tell(start("waits", count(3)))
    worker.tell(Reserve(work("reserved"), 2))
    for name in ("runs", "waits", "reserved", "unknown"):
        assert worker.tell(DropWork(RequestId(name), 1)) == [Dropped(request_id=RequestId(name), attempt=1)]
    stats = worker.scheduler.stats()
    assert (stats.held_blocks, stats.reserved_blocks, stats.waiting, stats.running) == (0, 0, 0, 0)
    worker.tell(start("last", count(3)))
    assert worker.step().ended == ("runs",)


def test_a_drop_of_another_attempt_changes_nothing() -> None:
    worker = OneWorker()
    worker.tell(start("r", attempt=2))
    worker.tell(DropWork(R, 1))
    worker.run()
    assert len(worker.output("r")) == 4


def test_a_newer_attempt_replaces_an_older_one_silently() -> None:
    worker = OneWorker()
    worker.tell(start("r", count(6), 4))
    plan = worker.plan()
    assert plan is not None
    worker.tell(start("r", count(6), 4, attempt=2))
    worker.commit(plan)
    assert worker.tokens == []
    second = worker.step()
    assert second.ended == ("r",)
    assert [new.request_id for new in second.new] == ["r"]
    worker.run()
    assert worker.output("r") == reference_output(count(6), sampling())
    assert not worker.said(Dropped)


def test_a_replaced_attempt_is_still_confirmed_when_asked_for() -> None:
    worker = OneWorker()
    worker.tell(start("r"))
    plan = worker.plan()
    assert plan is not None
    worker.tell(start("r", attempt=2))
    assert worker.tell(DropWork(R, 1)) == []
    worker.commit(plan)
    assert worker.said(Dropped) == [Dropped(request_id=R, attempt=1)]
    worker.run()
    assert {token.attempt for token in worker.tokens} == {2}


@pytest.mark.parametrize("attempt", [1, 2])
def test_an_attempt_that_is_not_newer_is_a_bug(attempt: int) -> None:
    worker = OneWorker()
    worker.tell(start("r", attempt=2))
    with pytest.raises(Bug):
        worker.tell(start("r", attempt=attempt))


def test_a_newer_attempt_voids_an_older_reservation() -> None:
    worker = OneWorker()
    worker.tell(Reserve(work(), 3))
    worker.tell(start("r", attempt=2))
    assert worker.scheduler.stats().reserved_blocks == 0
