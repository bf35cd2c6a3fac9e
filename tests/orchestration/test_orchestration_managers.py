"""The small managers, each by itself."""

from __future__ import annotations

import pytest

from diptych.domain.cluster import LimitsSpec
from diptych.domain.commands import LeaseBlocks, ReleaseLease, Send
from diptych.domain.errors import Bug, ContextTooLong
from diptych.domain.ids import BlockHash, BlockId, DomainId, LeaseId, WorkerId
from diptych.domain.kv import extend_hashes
from diptych.domain.report import Moment
from diptych.domain.request import FinishReason, SamplingParams
from diptych.domain.worker import Arena, Role, WorkerStats
from diptych.orchestration.admission import RETRY_AFTER_MAX_S, RETRY_AFTER_MIN_S, Admission
from diptych.orchestration.jobs import Job, output_end
from diptych.orchestration.leases import Leases
from diptych.orchestration.ledger import Hold, Ledger
from diptych.orchestration.moments import Moments
from diptych.orchestration.outbox import Outbox
from diptych.orchestration.parts import Parts
from diptych.orchestration.prefix_index import PrefixIndex
from diptych.orchestration.registry import Refusal, Registry, WorkerRef
from diptych.orchestration.timers import Timer, TimerKey, Timers
from diptych.orchestration.waiting import WaitingQueue
from support.head import FixedCost, make_info, make_request

A, B = WorkerId("a"), WorkerId("b")
HERE = DomainId("here")
H = tuple(BlockHash(bytes([number]) * 16) for number in range(4))

# ---------------------------------------------------------------- timers


def key(name: str) -> TimerKey:
    return TimerKey(Timer.QUEUE, name)


def test_timers_come_in_order_and_ties_by_key() -> None:
    timers = Timers()
    for name, t_s in (("b", 2.0), ("a", 2.0), ("c", 1.0)):
        timers.set(key(name), t_s)
    assert timers.next_s() == 1.0 and timers.pop_due(0.5) is None
    assert [timers.pop_due(2.0) for _ in range(4)] == [key("c"), key("a"), key("b"), None]
    assert timers.next_s() is None


def test_a_timer_moves_later_and_earlier_and_away() -> None:
    timers = Timers()
    timers.set(key("a"), 1.0)
    timers.set(key("a"), 3.0)
    assert timers.pop_due(2.0) is None and timers.next_s() == 3.0
    timers.set(key("a"), 2.0)
    assert timers.next_s() == 2.0
    timers.cancel(key("a"))
    timers.cancel(key("unknown"))
    assert timers.next_s() is None and key("a") not in timers
    timers.set(key("a"), 5.0)
    assert timers.pop_due(5.0) == key("a") and timers.pop_due(9.0) is None


# ---------------------------------------------------------------- moments


def test_moments_are_kept_once_and_in_order() -> None:
    moments = Moments()
    moments.mark(Moment.RECEIVED, 1.0)
    moments.mark(Moment.PLACED, 0.5)
    moments.mark(Moment.PLACED, 9.0)
    moments.mark(Moment.ADMITTED, 9.0)
    assert moments.as_dict() == {Moment.RECEIVED: 1.0, Moment.PLACED: 1.0}
    assert Moment.PLACED in moments and Moment.ADMITTED not in moments


# ---------------------------------------------------------------- waiting queue


def job(name: str, prompt: int = 10, priority: int = 0, received_s: float = 0.0) -> Job:
    request = make_request(name, prompt, priority=priority)
    return Job(request, received_s=received_s, queued_s=received_s)


def test_the_queue_is_sorted_by_priority_arrival_and_name() -> None:
    queue = WaitingQueue()
    jobs = [
        job("d", priority=1),
        job("c", received_s=2.0),
        job("b", received_s=1.0),
        job("a", received_s=1.0),
    ]
    for one in jobs:
        queue.add(one)
    assert [one.request_id for one in queue] == ["a", "b", "c", "d"]
    assert len(queue) == 4 and queue.prompt_tokens == 40
    queue.remove(jobs[2])
    queue.remove(jobs[2])
    assert [one.request_id for one in queue] == ["a", "c", "d"] and queue.prompt_tokens == 30


def test_the_queue_may_change_while_it_is_gone_through() -> None:
    queue = WaitingQueue()
    jobs = [job("a"), job("b"), job("c")]
    for one in jobs:
        queue.add(one)
    seen: list[str] = []
    for one in queue:
        seen.append(one.request_id)
        queue.remove(jobs[1])
    assert seen == ["a", "c"]


# ---------------------------------------------------------------- jobs


def test_a_job_hashes_its_output_behind_its_prompt() -> None:
    one = job("r", prompt=6)
    one.learn_output((7, 8, 9))
    everything = (*range(6), 7, 8, 9)
    assert one.hashes(4) == extend_hashes(one.request.cache_root, everything, 4)
    one.learn_output((7,))
    assert one.tokens == 9 and one.tokens_left == 5
    assert one.work(3, 4).output_tokens == 3


@pytest.mark.parametrize(
    ("output", "context_left", "reason"),
    [
        ((), 5, None),
        ((1,), 5, None),
        ((1, 9), 5, FinishReason.STOP),
        ((9, 1), 5, None),
        ((1, 2, 3), 5, FinishReason.LENGTH),
        ((1, 2, 9), 5, FinishReason.STOP),
        ((1,), 0, FinishReason.LENGTH),
    ],
)
def test_when_an_output_is_complete(
    output: tuple[int, ...], context_left: int, reason: FinishReason | None
) -> None:
    sampling = SamplingParams(max_tokens=3, seed=0, stop_token_ids=(9,))
    assert output_end(output, sampling, context_left) is reason


# ---------------------------------------------------------------- ledger


def test_the_ledger_counts_shared_pins_once() -> None:
    ledger, arena = Ledger(), Arena(0, 10)
    one, two = Hold(blocks=2, pins=(1, 2), prefill_tokens=8), Hold(pins=(2, 3), decodes=1, context_tokens=5)
    ledger.hold(A, one)
    ledger.hold(A, two)
    account = ledger.account(A)
    assert account.room_blocks(arena) == 10 - 3 - 2
    assert (account.prefill_tokens, account.decodes, account.context_tokens) == (8, 1, 5)
    ledger.check([(A, one), (A, two)])
    ledger.release(A, one)
    assert account.room_blocks(arena) == 8
    with pytest.raises(Bug, match="ledger of a"):
        ledger.check([(A, one)])
    ledger.release(A, two)
    assert account.holds == 0 and account.room_blocks(arena) == 10
    ledger.check([])


# ---------------------------------------------------------------- prefix index


def test_the_index_finds_leading_runs_of_any_owner() -> None:
    index = PrefixIndex()

    def leading(hashes: tuple[BlockHash, ...], domain: DomainId = HERE) -> list[dict[str, BlockId]]:
        """Owner → block, for each block of the run."""
        return [
            {holder.owner: holder.ids((block_hash,))[0] for holder in stretch.holders}
            for stretch in index.leading(domain, hashes)
            for block_hash in hashes[stretch.start : stretch.stop]
        ]

    index.cached(HERE, A, H[:2], (10, 11))
    index.cached(HERE, B, H[1:3], (21, 22))
    assert leading(H) == [{A: 10}, {A: 11, B: 21}, {B: 22}]
    assert leading(H, DomainId("there")) == [] == leading(())
    assert list(leading(H)[1]) == [A, B], "who cached it first comes first"
    assert [(it.start, it.stop) for it in index.leading(HERE, H)] == [(0, 1), (1, 2), (2, 3)]
    index.evicted(A, H[:1])
    assert leading(H) == [] and leading(H[1:]) == [{A: 11, B: 21}, {B: 22}]
    index.forget(A)
    assert leading(H[1:]) == [{B: 21}, {B: 22}]
    assert [(it.start, it.stop) for it in index.leading(HERE, H[1:])] == [(0, 2)], "one stretch"
    assert index.owners() == (B,) and index.owned_blocks(B) == 2
    index.evicted(A, H)
    index.forget(B)
    assert index.owners() == ()


def test_a_block_that_is_cached_again_keeps_its_place() -> None:
    index = PrefixIndex()
    index.cached(HERE, A, H[:2], (10, 11))
    index.cached(HERE, B, H[:2], (20, 21))
    index.cached(HERE, A, H[:1], (15,))
    (stretch,) = index.leading(HERE, H)
    assert [holder.owner for holder in stretch.holders] == [A, B]
    assert stretch.holders[0].ids(H[:2]) == (15, 11)
    assert index.additions == 3


# ---------------------------------------------------------------- registry


def test_the_registry_knows_the_living_and_the_known() -> None:
    registry = Registry(LimitsSpec(), Timers())
    registry.note_absence(1.0)
    assert registry.none_since_s == 1.0
    worker = registry.join(make_info("b", Role.DECODE), 2.0)
    registry.join(make_info("a", Role.PREFILL), 2.0)
    assert worker is not None and registry.none_since_s is None
    assert [it.worker_id for it in registry.live()] == ["a", "b"]
    registry.condemn(worker, 3.0)
    assert [it.worker_id for it in registry.usable()] == ["a"]
    assert registry.lose(WorkerRef(B, 7), 4.0) is None
    registry.lose(WorkerRef(A, 1), 4.0)
    assert registry.none_since_s == 4.0, "the condemned one does not count"
    assert [it.worker_id for it in registry.known()] == ["a", "b"]


def test_a_refusal_holds_until_more_room_is_reported() -> None:
    registry = Registry(LimitsSpec(), Timers())
    worker = registry.join(make_info("a", Role.DECODE), 0.0)
    assert worker is not None and worker.reported_room_blocks == 100, "no stats: the whole arena"
    registry.refuse(worker, Refusal(3, until_s=9.0))
    registry.report(worker, WorkerStats(free_blocks=2, cached_blocks=3, reserved_blocks=2), 1.0)
    assert worker.refusal is not None and worker.reported_room_blocks == 3
    registry.report(worker, WorkerStats(free_blocks=4), 1.0)
    assert worker.refusal is None


# ---------------------------------------------------------------- leases


class Lending:
    """A lease book with one owner."""

    def __init__(self) -> None:
        self.ledger, self.outbox = Ledger(), Outbox()
        self.registry = Registry(LimitsSpec(), Timers())
        self.leases = Leases(self.ledger, self.registry, self.outbox)
        owner = self.registry.join(make_info("a", Role.DECODE), 0.0)
        assert owner is not None
        self.owner = owner

    def orders(self) -> list[object]:
        return [send.command for send in self.outbox.take() if isinstance(send, Send)]


L = LeaseId("l")


def test_a_lease_from_asking_to_release() -> None:
    it = Lending()
    it.leases.ask(L, it.owner, (H[0], H[1]), (5, 6))
    assert it.orders() == [LeaseBlocks(L, (H[0], H[1]))]
    assert not it.leases.answered(L) and it.leases.adopted(A) == {}
    assert list(it.ledger.account(A).pins) == [5, 6]
    assert it.leases.grant(L, (5,))
    assert it.leases.answered(L) and it.leases.blocks(L) == (5,) and it.leases.adopted(A) == {L: (5,)}
    it.leases.release(L)
    it.leases.release(L)
    assert it.orders() == [ReleaseLease(L)] and len(it.leases) == 0
    it.ledger.check([])


def test_an_empty_answer_is_no_lease() -> None:
    it = Lending()
    it.leases.ask(L, it.owner, (H[0],), (5,))
    assert it.leases.grant(L, ()) and L not in it.leases and it.leases.blocks(L) == ()
    assert it.leases.answered(L)


def test_an_orphan_is_released_by_its_answer() -> None:
    it = Lending()
    it.leases.ask(L, it.owner, (H[0],), (5,))
    it.leases.orphan(L)
    assert it.leases.orphans() == (L,)
    it.orders()
    assert not it.leases.grant(L, (5,))
    assert it.orders() == [ReleaseLease(L)] and len(it.leases) == 0
    assert not it.leases.grant(L, (5,))


def test_leases_of_a_dead_owner() -> None:
    it = Lending()
    it.leases.ask(L, it.owner, (H[0],), (5,))
    it.leases.ask(LeaseId("m"), it.owner, (H[1],), (6,))
    it.leases.grant(L, (5,))
    it.orders()
    it.registry.lose(it.owner.ref, 1.0)
    assert it.leases.owner_lost(A) == (LeaseId("m"),)
    assert it.leases.adopted(A) == {L: (5,)}
    it.leases.release(L)
    assert it.orders() == [] and it.leases.adopted(A) == {}
    again = it.registry.join(make_info("a", Role.DECODE, incarnation=2), 2.0)
    assert again is not None
    it.leases.owner_joined(again)
    assert it.orders() == [ReleaseLease(L)]


def test_a_lease_id_is_used_once() -> None:
    it = Lending()
    it.leases.expect_export(L, A)
    with pytest.raises(Bug, match="exists already"):
        it.leases.expect_export(L, A)


# ---------------------------------------------------------------- admission


class Door:
    """An admission and what it looks at."""

    def __init__(self, limits: LimitsSpec | None = None, slowness: dict[str, float] | None = None) -> None:
        parts = Parts.make(limits or LimitsSpec(), FixedCost(slowness))
        self.registry, self.ledger, self.queue = parts.registry, parts.ledger, parts.queue
        self.admission = Admission(parts, 100)


@pytest.mark.parametrize(
    ("prompt", "roles", "fits"),
    [
        (99, (), True),
        (100, (), False),
        (40, (Role.PREFILL,), True),
        (41, (Role.PREFILL, Role.DECODE), False),
        (39, (Role.MIXED,), True),
        (40, (Role.MIXED,), False),
        (40, (Role.DECODE,), False),
    ],
)
def test_what_can_never_fit(prompt: int, roles: tuple[Role, ...], fits: bool) -> None:
    """Prefill and mixed workers of 10 blocks of 4 tokens, decode workers twice as large."""
    door = Door()
    for number, role in enumerate(roles):
        blocks = 20 if role is Role.DECODE and len(roles) > 1 else 10
        door.registry.join(make_info(f"w{number}", role, blocks=blocks), 0.0)
    error = door.admission.never_fits(job("r", prompt))
    assert error is None if fits else isinstance(error, ContextTooLong)


def test_the_queue_is_bounded_in_requests_and_in_tokens() -> None:
    door = Door(LimitsSpec(queue_requests=1, queue_tokens=25))
    door.queue.add(job("a"))
    assert door.admission.overflows() is None
    door.queue.add(job("b"))
    error = door.admission.overflows()
    assert error is not None and "1 requests" in str(error)
    door = Door(LimitsSpec(queue_requests=10, queue_tokens=15))
    door.queue.add(job("a"))
    assert door.admission.overflows() is None
    door.queue.add(job("b"))
    error = door.admission.overflows()
    assert error is not None and "15 prompt tokens" in str(error)


def test_when_to_come_again_is_the_backlog_over_the_rates_of_all() -> None:
    door = Door(slowness={"p2": 3.0})
    assert door.admission.retry_after_s() == RETRY_AFTER_MAX_S, "nobody works"
    door.registry.join(make_info("p1", Role.PREFILL), 0.0)
    assert door.admission.retry_after_s() == RETRY_AFTER_MIN_S, "nothing waits"
    door.queue.add(job("a", 4000))
    door.ledger.hold(WorkerId("p1"), Hold(prefill_tokens=2000))
    assert door.admission.retry_after_s() == pytest.approx(6.0), "6,000 tokens at 1,000 a second"
    door.registry.join(make_info("p2", Role.PREFILL), 0.0)
    door.registry.join(make_info("d", Role.DECODE), 0.0)
    assert door.admission.retry_after_s() == pytest.approx(4.5), "the second does a third of that"
    door.queue.add(job("b", 400_000))
    assert door.admission.retry_after_s() == RETRY_AFTER_MAX_S
