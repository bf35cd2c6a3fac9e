"""Which pair, and why: filters, scores, the choice, and the order in which the queue is tried."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.domain.cluster import LimitsSpec, SloSpec
from diptych.domain.commands import LeaseBlocks, Reserve, StartPrefill
from diptych.domain.events import (
    BlocksCached,
    DecodeStarted,
    Finished,
    PrefillDone,
    PrefillStarted,
    Reserved,
)
from diptych.domain.ids import BlockHash, DomainId, RequestId, WorkerId
from diptych.domain.lifecycle import State
from diptych.domain.report import Candidate, Placement
from diptych.domain.request import FinishReason
from diptych.domain.worker import Role, WorkerInfo, WorkerStats
from diptych.orchestration import scorers
from diptych.orchestration.explain import candidates as explained
from diptych.orchestration.hits import Hits, Run
from diptych.orchestration.ledger import Ledger
from diptych.orchestration.prefix_index import PrefixIndex
from diptych.orchestration.registry import Worker
from diptych.orchestration.seats import Seat
from support.head import BLOCK_TOKENS, FixedCost, Head, make_info, make_request

P, D, M = Role.PREFILL, Role.DECODE, Role.MIXED


def head_of(*infos: WorkerInfo, limits: LimitsSpec | None = None, cost: FixedCost | None = None) -> Head:
    """A head with these workers."""
    head = Head(limits, cost=cost)
    for info in infos:
        head.join(info)
    return head


def pools(text: str, **sizes: int) -> list[WorkerInfo]:
    """``"p d d m"``: workers p1, d1, d2, m1 with arenas of 100 blocks, or as many as ``sizes`` says."""
    infos: list[WorkerInfo] = []
    roles = {"p": P, "d": D, "m": M}
    for letter in text.split():
        name = f"{letter}{1 + sum(info.worker_id.startswith(letter) for info in infos)}"
        start = sum(info.arena.blocks for info in infos)
        infos.append(make_info(name, roles[letter], start=start, blocks=sizes.get(name, 100)))
    return infos


def place(head: Head, name: str, prompt: int = 10, *, max_tokens: int = 8, priority: int = 0) -> None:
    """A request arrives."""
    head.arrive(make_request(name, prompt, max_tokens=max_tokens, priority=priority))


def end(head: Head, name: str) -> Placement:
    """End a request somehow, to see its placement."""
    head.tell_gone(name)
    return head.reports[name].placements[-1]


def candidates(head: Head, name: str) -> dict[tuple[str, str], Candidate]:
    """What its placement considered."""
    return {(it.prefill_worker, it.decode_worker): it for it in explained(end(head, name))}


# ---------------------------------------------------------------- candidates


def test_all_pairs_are_considered_and_each_worker_with_itself() -> None:
    head = head_of(*pools("p p d m"))
    place(head, "r")
    seen = candidates(head, "r")
    assert sorted(seen) == [
        ("d1", "d1"),
        ("m1", "m1"),
        ("p1", "d1"),
        ("p1", "p1"),
        ("p2", "d1"),
        ("p2", "p2"),
    ]
    allowed = sorted(pair for pair, it in seen.items() if it.rejected is None)
    assert allowed == [("m1", "m1"), ("p1", "d1"), ("p2", "d1")], "split pools and the mixed one compete"
    for pair, it in seen.items():
        assert (it.scores == {}) == (it.predicted_ttft_s is None) == (pair not in allowed)
        assert all(0 <= score <= 1 for score in it.scores.values())


def test_predictions_are_queue_plus_prefill_plus_handoff() -> None:
    head = head_of(*pools("p d m"), limits=LimitsSpec(prefill_backlog_tokens=1000))
    place(head, "first", 100)
    place(head, "r", 50)
    seen = candidates(head, "r")
    first = end(head, "first").prefill_worker
    waits = 0.1
    split, alone = seen["p1", "d1"], seen["m1", "m1"]
    assert split.predicted_ttft_s == pytest.approx(0.05 + 0.002 + (waits if first == "p1" else 0))
    assert alone.predicted_ttft_s == pytest.approx(0.05 + (waits if first == "m1" else 0))


def test_prefill_on_a_decoding_worker_costs_those_who_decode_there() -> None:
    head = head_of(*pools("m"))
    place(head, "first", max_tokens=8)
    head.say("m1", DecodeStarted(RequestId("first"), 1))
    head.beat("m1", WorkerStats(free_blocks=90, held_blocks=10))
    place(head, "r", 80, max_tokens=8)
    it = candidates(head, "r")["m1", "m1"]
    assert it.predicted_tpot_s == pytest.approx(0.009 + 2 * 0.001 + 1 * 0.08 / 8)


def test_a_cached_prefix_is_the_same_gain_wherever_it_is_prefilled_in_its_domain() -> None:
    head = head_of(*pools("p p d"))
    request = make_request("r", 12)
    head.say("p2", BlocksCached(request.block_hashes[:2], (100, 101)))
    head.arrive(request)
    assert isinstance(head.take("d1")[0], Reserve)
    seen = candidates(head, "r")
    assert seen["p1", "d1"].cached_tokens == seen["p2", "d1"].cached_tokens == 2 * BLOCK_TOKENS
    placement = head.reports["r"].placements[0]
    assert placement.prefill_worker == "p2", "without a lease it is simpler"
    assert "8 of 12 tokens cached" in placement.reason


def test_another_domain_shares_nothing() -> None:
    head = head_of(*pools("p d"), make_info("d9", D, start=0, domain="there"))
    request = make_request("r", 12)
    head.say("d9", BlocksCached(request.block_hashes[:2], (0, 1)))
    head.arrive(request)
    seen = candidates(head, "r")
    assert seen["p1", "d9"].rejected is None and seen["p1", "d9"].cached_tokens == 0
    assert seen["p1", "d1"].cached_tokens == 0


# ---------------------------------------------------------------- the choice


def test_the_faster_prefill_wins() -> None:
    head = head_of(*pools("p p d"), cost=FixedCost({"p1": 2.0}))
    place(head, "r")
    assert end(head, "r").prefill_worker == "p2"


def test_the_less_loaded_decode_worker_wins() -> None:
    head = head_of(*pools("p d d"))
    place(head, "first")
    place(head, "r")
    assert {end(head, "first").decode_worker, end(head, "r").decode_worker} == {"d1", "d2"}


def test_equal_pairs_go_by_name() -> None:
    head = head_of(*reversed(pools("p p d d")))
    place(head, "r")
    placement = end(head, "r")
    assert (placement.prefill_worker, placement.decode_worker) == ("p1", "d1")


def test_what_is_within_the_target_is_good_enough() -> None:
    def scores(slo: SloSpec) -> list[float]:
        head = Head(cost=FixedCost({"m2": 4.0}), slo=slo)
        for info in pools("m m"):
            head.join(info)
        place(head, "r", 1000 // 10)
        return [it.scores["ttft"] for it in candidates(head, "r").values()]

    assert scores(SloSpec()) == [1.0, 0.25]
    assert scores(SloSpec(ttft_s=0.5)) == [1.0, 1.0]
    assert scores(SloSpec(ttft_s=0.2)) == [1.0, 0.5]


def test_among_pairs_that_meet_the_targets_the_earliest_first_token_wins() -> None:
    """Or all prompts would pile up on the first prefill worker until it missed the target."""
    head = Head(LimitsSpec(prefill_backlog_tokens=10_000), slo=SloSpec(ttft_s=1e6, tpot_s=1e6))
    for info in pools("p p p d", d1=10_000):
        head.join(info)
    for number in range(6):
        place(head, f"r{number}", 100)
    chosen = [end(head, f"r{number}").prefill_worker for number in range(6)]
    assert chosen == ["p1", "p2", "p3"] * 2


def test_weights_sum_to_one_so_that_a_total_is_a_score() -> None:
    assert scorers.total(1.0, 1.0, 1.0, 1.0) == pytest.approx(1.0)
    assert scorers.total(0.0, 0.0, 0.0, 0.0) == 0.0


# ---------------------------------------------------------------- filters


def reason(head: Head, name: str, pair: tuple[str, str]) -> str:
    """Why a pair was dropped."""
    rejected = candidates(head, name)[pair].rejected
    assert rejected is not None
    return rejected.split(":")[0]


def test_filters_and_their_reasons() -> None:
    limits = LimitsSpec(prefill_backlog_tokens=15)
    head = head_of(*pools("p p p d d", p2=2, d2=1), limits=limits)
    place(head, "one", 20, max_tokens=16)
    head.say("d1", Reserved(RequestId("one"), 1))
    busy = next(name for name in ("p1", "p3") if head.take(name))
    place(head, "r", 20, max_tokens=16)
    seen = candidates(head, "r")
    assert seen[busy, "d1"].rejected == "backlog: 20 prompt tokens wait already"
    assert seen["p2", "d1"].rejected == "arena: 5 blocks needed, 2 exist"
    assert (seen["p1", "p1"].rejected or "").startswith("role")


def test_an_idle_prefill_worker_takes_any_prompt() -> None:
    head = head_of(*pools("p d"), limits=LimitsSpec(prefill_backlog_tokens=1))
    place(head, "r", 300)
    head.take_one("d1", Reserve)
    place(head, "next", 1)
    assert head.take("d1") == [], "but no second one behind it"
    head.say("d1", Reserved(RequestId("r"), 1))
    head.say("p1", PrefillStarted(RequestId("r"), 1, 0))
    head.say("p1", PrefillDone(RequestId("r"), 1, tuple(range(75)), 300), output=(5,))
    assert [type(order).__name__ for order in head.take("d1")] == ["StartDecode", "Reserve"]


def test_a_full_decode_batch_takes_no_more() -> None:
    head = head_of(make_info("p1", P), make_info("d1", D, start=100, max_running=2))
    for name in ("a", "b", "c"):
        place(head, name)
    assert [order.request_id for order in head.take("d1") if isinstance(order, Reserve)] == ["a", "b"]
    assert head.core.snapshot().queued_requests == 1


def test_blocks_that_are_lent_out_count_against_the_owner_until_they_are_released() -> None:
    head = head_of(*pools("p d", p1=5))
    a = RequestId("a")
    place(head, "a", 12)
    head.say("d1", Reserved(a, 1))
    head.say("p1", PrefillDone(a, 1, (0, 1, 2), 12), output=(5,))
    place(head, "b", 12)
    assert head.core.snapshot().queued_requests == 1, "3 of 5 blocks are lent to the decode of a"
    head.say("d1", DecodeStarted(a, 1))
    head.say("d1", Finished(a, 1, FinishReason.LENGTH))
    assert head.core.snapshot().queued_requests == 0


def test_growth_is_capped_by_what_an_empty_arena_has() -> None:
    head = head_of(*pools("p d", d1=2))
    place(head, "r", 10, max_tokens=100)
    assert head.take_one("d1", Reserve).blocks == 2


def test_cached_blocks_of_the_decode_worker_are_not_lent_if_that_leaves_no_room_to_decode() -> None:
    """Reserving all of an arena and pinning some of it would be refused for ever."""
    head = head_of(*pools("p d", d1=4))
    request = make_request("r", 12, max_tokens=8)
    head.say("d1", BlocksCached(request.block_hashes[:2], (100, 101)))
    head.arrive(request)
    reserve, lease = head.take("d1")
    assert isinstance(reserve, Reserve) and reserve.blocks == 3
    assert isinstance(lease, LeaseBlocks) and lease.hashes == request.block_hashes[:1]


def test_a_mixed_worker_under_pressure_gets_nothing_that_it_reports_no_room_for() -> None:
    head = head_of(*pools("m"))
    place(head, "a")
    head.say("m1", DecodeStarted(RequestId("a"), 1))
    head.beat("m1", WorkerStats(free_blocks=2, held_blocks=98))
    place(head, "b")
    assert head.core.snapshot().queued_requests == 1, "a has outgrown what was promised to it"
    head.beat("m1", WorkerStats(free_blocks=50, held_blocks=50))
    assert head.core.snapshot().queued_requests == 0


def test_roles_are_strict_while_each_has_a_worker() -> None:
    head = head_of(*pools("p p m"))
    place(head, "r")
    allowed = [pair for pair, it in candidates(head, "r").items() if it.rejected is None]
    assert allowed == [("m1", "m1")], "the mixed worker can decode, so no prefill worker has to"


H = [BlockHash(bytes([number]) * 16) for number in range(9)]


class Cache:
    """Workers of one domain, each with blocks ``10 * number + index`` of a sequence of hashes."""

    def __init__(self, rooms: dict[str, int]) -> None:
        ledger = Ledger()
        self.index = PrefixIndex()
        self.seats: dict[WorkerId, Seat] = {}
        for name, room in rooms.items():
            worker = Worker(make_info(name, D, blocks=room), 0.0)
            self.seats[worker.worker_id] = Seat(worker, ledger.account(worker.worker_id))

    def has(self, name: str, *indices: int) -> None:
        """This worker has these blocks of the sequence."""
        number = list(self.seats).index(WorkerId(name))
        hashes = tuple(H[index] for index in indices)
        self.index.cached(DomainId("here"), WorkerId(name), hashes, tuple(10 * number + it for it in indices))

    def chosen(self, prefer: str, less: tuple[WorkerId, int] | None = None) -> Hits:
        """What this worker would use."""
        run = Run(self.index.leading(DomainId("here"), H), H, self.seats)
        return run.choose(WorkerId(prefer), less)

    def owners(self, prefer: str, less: tuple[WorkerId, int] | None = None) -> str:
        """Whose blocks, one letter for each."""
        return "".join(
            holder.owner * (stop - start) for holder, start, stop in self.chosen(prefer, less).parts
        )


def test_prefix_hits_keep_to_one_owner() -> None:
    cache = Cache({"a": 9, "b": 9, "w": 9})
    cache.has("a", 0, 1, 2)
    cache.has("b", 0, 1, 2)
    assert cache.owners("w") == "aaa", "who cached them first"
    assert cache.owners("b") == "bbb", "its own, which need no lease"
    hits = cache.chosen("b")
    assert hits.own == 3 and hits.own_ids(WorkerId("b"), H) == (10, 11, 12)
    assert hits.taken_of(WorkerId("b")) == 3 and hits.taken_of(WorkerId("a")) == 0
    cache.has("b", 3, 4)
    cache.has("a", 4)
    assert cache.owners("w") == "aaabb", "the owner of the block before"
    assert cache.chosen("w").lent(WorkerId("w")) == {
        cache.chosen("a").parts[0][0]: (0, 1, 2),
        cache.chosen("b").parts[0][0]: (3, 4),
    }


def test_prefix_hits_keep_to_what_their_owners_can_spare() -> None:
    cache = Cache({"a": 1, "b": 1, "w": 9})
    cache.has("a", 0, 1, 2)
    cache.has("b", 0, 1, 2)
    assert cache.owners("w") == "ab"
    assert cache.owners("w", (WorkerId("a"), 1)) == "b"
    assert cache.owners("a") == "aaa", "its own need no room here"
    account = cache.seats[WorkerId("a")].account
    account.pins[1] = 1
    assert cache.seats[WorkerId("a")].room_blocks == 0
    assert cache.owners("w") == "ba", "pinned already: costs nothing"
    del cache.seats[WorkerId("b")]
    assert cache.owners("w") == "", "who is gone lends nothing"


@given(
    has=st.lists(st.tuples(st.sampled_from("abw"), st.integers(0, 5), st.integers(1, 4)), max_size=8),
    rooms=st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6)),
    pinned=st.sets(st.tuples(st.sampled_from("abw"), st.integers(0, 8)), max_size=6),
    less=st.none() | st.tuples(st.sampled_from("abw"), st.integers(0, 6)),
)
def test_prefix_hits_by_stretches_are_those_by_blocks(
    has: list[tuple[str, int, int]],
    rooms: tuple[int, int, int],
    pinned: set[tuple[str, int]],
    less: tuple[str, int] | None,
) -> None:
    cache = Cache(dict(zip("abw", rooms, strict=True)))
    owners: list[list[str]] = [[] for _ in H]
    for name, start, count in has:
        indices = range(start, min(len(H), start + count))
        cache.has(name, *indices)
        for index in indices:
            owners[index] += [] if name in owners[index] else [name]
    for name, index in pinned:
        cache.seats[WorkerId(name)].account.pins[10 * "abw".index(name) + index] = 1
    fewer = None if less is None else (WorkerId(less[0]), less[1])
    assert cache.owners("w", fewer) == _block_by_block(cache, owners, less)


def _block_by_block(cache: Cache, owners: list[list[str]], less: tuple[str, int] | None) -> str:
    """The rule, one block at a time."""
    chosen, last, taken = "", "w", dict.fromkeys("abw", 0)
    for index, there in enumerate(owners):
        for name in ["w"] if "w" in there else [last, *there]:
            seat = cache.seats[WorkerId(name)]
            new = 10 * "abw".index(name) + index not in seat.account.pins
            spare = seat.room_blocks - (less[1] if less is not None and less[0] == name else 0)
            if name in there and (name == "w" or not new or taken[name] + new <= spare):
                chosen, last = chosen + name, name
                taken[name] += new
                break
        else:
            break
    return chosen


# ---------------------------------------------------------------- the queue


def test_the_queue_is_tried_by_priority_then_arrival() -> None:
    head = head_of(*pools("m"), limits=LimitsSpec(prefill_backlog_tokens=1))
    place(head, "running")
    for name, priority in (("low", 5), ("first", 0), ("urgent", -1)):
        place(head, name, 5, priority=priority)
        head.now_s += 0.1
    order: list[str] = []
    for _ in range(4):
        (start,) = head.take("m1")
        assert isinstance(start, StartPrefill)
        order.append(start.work.request_id)
        head.say("m1", Finished(start.work.request_id, 1, FinishReason.LENGTH))
    assert order == ["running", "urgent", "first", "low"]


def test_a_large_request_is_passed_for_a_while_and_then_by_nobody() -> None:
    head = head_of(*pools("p d", p1=10), limits=LimitsSpec(heartbeat_timeout_s=1000.0))
    a = RequestId("a")
    place(head, "a", 12)
    head.say("d1", Reserved(a, 1))
    head.say("p1", PrefillDone(a, 1, (0, 1, 2), 12), output=(5,))
    head.take("d1")
    place(head, "large", 36)
    place(head, "small", 4)
    assert head.take_one("d1", Reserve).request_id == "small"
    head.wait(3.0)
    place(head, "late", 4)
    assert head.take("d1") == [], "now the large one is next, whatever comes"
    head.tell_gone("small")
    head.say("d1", DecodeStarted(a, 1))
    head.say("d1", Finished(a, 1, FinishReason.LENGTH))
    head.drop("d1", "small")
    placed = [order.request_id for order in head.take("d1") if isinstance(order, Reserve)]
    assert placed == ["large", "late"]


def test_what_no_living_worker_can_take_keeps_nobody_back() -> None:
    head = head_of(*pools("m m", m1=4, m2=40))
    head.lose("m2")
    place(head, "large", 100)
    place(head, "small", 4)
    assert [order.work.request_id for order in head.take("m1") if isinstance(order, StartPrefill)] == [
        "small"
    ]
    head.join(make_info("m2", M, start=4, blocks=40, incarnation=2))
    assert head.take_one("m2", StartPrefill).work.request_id == "large"


# ---------------------------------------------------------------- admission through the door


def test_a_newcomer_without_place_is_shed_with_a_time_to_come_again() -> None:
    limits = LimitsSpec(queue_requests=1, prefill_backlog_tokens=1)
    head = head_of(*pools("m"), limits=limits, cost=FixedCost({"m1": 10.0}))
    place(head, "running", 280)
    place(head, "waits")
    place(head, "shed")
    report = head.reports["shed"]
    assert (report.state, report.error_code) == (State.REJECTED, "server_overloaded")
    assert report.retry_after_s == pytest.approx(3.0, abs=0.1) and not report.placements
    assert "waits" not in head.reports


def test_without_a_queue_only_those_with_a_place_are_let_in() -> None:
    head = head_of(*pools("m"), limits=LimitsSpec(queue_requests=0, prefill_backlog_tokens=1))
    place(head, "a")
    place(head, "b")
    assert "a" not in head.reports and head.reports["b"].error_code == "server_overloaded"


def test_a_resumed_request_is_never_shed_and_keeps_its_place() -> None:
    head = head_of(*pools("m m"), limits=LimitsSpec(queue_requests=0, prefill_backlog_tokens=1))
    place(head, "old")
    head.say("m1", DecodeStarted(RequestId("old"), 1))
    for name in ("b", "c"):
        head.now_s += 0.1
        place(head, name)
    head.lose("m1", old=(5, 6), c=())
    assert not {"old", "c"} & set(head.reports)
    assert head.core.snapshot().queued_requests >= 1
    place(head, "new")
    assert head.reports["new"].error_code == "server_overloaded"
    head.say("m2", Finished(RequestId("b"), 1, FinishReason.LENGTH))
    starts = [order.work.request_id for order in head.take("m2") if isinstance(order, StartPrefill)]
    assert starts == ["b", "old"]


def test_what_is_too_long_is_rejected_at_once() -> None:
    head = head_of(*pools("m"))
    for prompt in (1000, 400):
        head.arrive(make_request(f"r{prompt}", prompt))
        report = head.reports[f"r{prompt}"]
        assert (report.state, report.error_code) == (State.REJECTED, "context_length_exceeded")


def test_an_output_that_outgrows_every_arena_fails_when_it_has_to_be_computed_anew() -> None:
    head = head_of(*pools("m", m1=5))
    head.arrive(make_request("r", 12, max_tokens=50))
    head.lose("m1", r=tuple(range(8)))
    report = head.reports["r"]
    assert (report.state, report.error_code) == (State.FAILED, "context_length_exceeded")


def test_the_same_events_give_the_same_commands() -> None:
    def run() -> list[object]:
        head = head_of(*pools("p p d d m"))
        commands: list[object] = []
        for number in range(12):
            place(head, f"r{number}", 5 + number)
            commands += head.sent
        head.lose("d1")
        return [*commands, *head.sent]

    assert run() == run()


def test_a_prompt_that_fills_a_whole_empty_arena_is_taken() -> None:
    head = head_of(*pools("m", m1=3))
    place(head, "r", 11)
    assert head.take_one("m1", StartPrefill).work.request_id == "r"


def test_a_decode_worker_that_has_promised_all_its_blocks_is_not_asked_for_more() -> None:
    head = head_of(*pools("p d", d1=5))
    place(head, "a", max_tokens=8)
    place(head, "b", max_tokens=8)
    assert head.take_one("d1", Reserve).request_id == "a", "3 of 5 blocks"
    place(head, "c", 5, max_tokens=1)
    assert head.take_one("d1", Reserve).request_id == "c", "2 blocks are enough for this one"


def test_what_can_not_be_streamed_anywhere_keeps_nobody_back_however_busy_the_others_are() -> None:
    limits = LimitsSpec(prefill_backlog_tokens=1)
    head = head_of(make_info("p1", P, domain="a"), make_info("d1", D, domain="b"), limits=limits)
    head.join(make_info("d2", D, blocks=3, start=100, domain="b"))
    head.lose("d1")
    place(head, "running", 8)
    place(head, "large", 40)
    place(head, "small", 8, max_tokens=1)
    head.say("d2", Reserved(RequestId("running"), 1))
    head.say("p1", Finished(RequestId("running"), 1, FinishReason.LENGTH))
    head.drop("d2", "running")
    placed = [order.request_id for order in head.take("d2") if isinstance(order, Reserve)]
    assert placed == ["running", "small"]
