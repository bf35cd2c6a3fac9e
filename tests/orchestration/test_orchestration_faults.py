"""Losses, hangs, deadlines: what is undone, what goes on, what is waited for."""

from __future__ import annotations

import pytest

from diptych.domain.cluster import LimitsSpec
from diptych.domain.commands import (
    DropWork,
    LeaseBlocks,
    ReleaseLease,
    Reserve,
    StartDecode,
    StartPrefill,
)
from diptych.domain.errors import Bug
from diptych.domain.events import (
    BlocksCached,
    ClientGone,
    DecodeStarted,
    Dropped,
    Finished,
    HeadResumed,
    Heartbeat,
    Leased,
    PrefillDone,
    PrefillStarted,
    Reserved,
    ReserveRefused,
    StopMatched,
    Tick,
    WorkerJoined,
    WorkerLostEvent,
)
from diptych.domain.ids import RequestId, WorkerId
from diptych.domain.lifecycle import State
from diptych.domain.request import FinishReason
from diptych.domain.worker import Role, WorkerStats
from support.head import Head, make_info, make_request

R = RequestId("r")
FREE = WorkerStats(free_blocks=100)


def make_head(**limits: float) -> Head:
    """Two prefill workers, two decode workers."""
    head = Head(LimitsSpec.model_validate(limits))
    for number, (name, role) in enumerate(
        [("p1", Role.PREFILL), ("p2", Role.PREFILL), ("d1", Role.DECODE), ("d2", Role.DECODE)]
    ):
        head.join(make_info(name, role, start=100 * number))
    return head


def place(head: Head, request_id: str = "r", max_tokens: int = 8) -> None:
    """Placed on (p1, d1): the first names win when all else is equal."""
    head.arrive(make_request(request_id, 10, max_tokens=max_tokens))


def prefill(head: Head, max_tokens: int = 8) -> None:
    place(head, max_tokens=max_tokens)
    head.say("d1", Reserved(R, 1))
    head.say("p1", PrefillStarted(R, 1, 0))


def hand_off(head: Head, max_tokens: int = 8) -> None:
    prefill(head, max_tokens)
    head.say("p1", PrefillDone(R, 1, (5, 6, 7), 10), output=(77,))


def decode(head: Head, max_tokens: int = 8) -> None:
    hand_off(head, max_tokens)
    head.say("d1", DecodeStarted(R, 1))


def clear(head: Head) -> None:
    """Forget all orders so far."""
    head.sent.clear()


def test_prefill_worker_lost_while_it_computes() -> None:
    head = make_head()
    prefill(head)
    clear(head)
    head.lose("p1", r=())
    assert head.take("d1") == [DropWork(R, 1)]
    assert head.core.snapshot().requests == {State.PREFILLING: 1}, "d1 still has to confirm"
    head.say("d1", Dropped(R, 1), output=())
    assert head.take_one("d1", Reserve).attempt == 2
    head.say("d1", Reserved(R, 2))
    assert head.take_one("p2", StartPrefill).work.attempt == 2


def test_decode_worker_lost_before_the_handoff_waits_for_the_prefill_worker_to_stop() -> None:
    """Its last report may be under way, with a token in it: it counts, and does not come again."""
    head = make_head()
    prefill(head)
    clear(head)
    head.lose("d1", r=())
    assert head.take("p1") == [DropWork(R, 1)]
    head.say("p1", Dropped(R, 1), output=(77,))
    assert [type(order) for order in head.take("p1")] == [ReleaseLease]
    head.say("d2", Reserved(R, 2))
    (start,) = [send.command for send in head.sent if isinstance(send.command, StartPrefill)]
    assert start.work.token_ids == (*range(10), 77)


def test_decode_worker_lost_while_it_decodes() -> None:
    head = make_head()
    decode(head)
    clear(head)
    head.lose("d1", r=(77, 78, 79))
    assert [type(order) for order in head.take("p1")] == [ReleaseLease]
    assert head.take_one("d2", Reserve).attempt == 2
    head.say("d2", Reserved(R, 2))
    assert head.take_one("p1", StartPrefill).work.token_ids == (*range(10), 77, 78, 79)


def test_a_decode_goes_on_when_the_owner_of_its_blocks_dies() -> None:
    head = make_head()
    decode(head)
    clear(head)
    head.lose("p1", r=(77, 78))
    assert head.sent == [] and head.core.snapshot().requests == {State.DECODING: 1}
    (adopted,) = head.core.adopted_leases(WorkerId("p1")).items()
    assert adopted[1] == (5, 6, 7)
    head.join(make_info("p1", Role.PREFILL, incarnation=2))
    head.say("d1", Finished(R, 1, FinishReason.LENGTH))
    assert head.take("p1") == [ReleaseLease(adopted[0])]


def test_a_lease_that_ends_while_its_owner_is_away_is_released_when_it_joins() -> None:
    head = make_head()
    decode(head)
    head.lose("p1", r=(77, 78))
    ((lease_id, _),) = head.core.adopted_leases(WorkerId("p1")).items()
    clear(head)
    head.say("d1", Finished(R, 1, FinishReason.LENGTH))
    assert head.sent == [] and head.core.adopted_leases(WorkerId("p1")) == {}
    assert head.core.snapshot().idle
    head.join(make_info("p1", Role.PREFILL, incarnation=2))
    assert head.take("p1") == [ReleaseLease(lease_id)]
    head.lose("p1")
    head.join(make_info("p1", Role.PREFILL, incarnation=3))
    assert head.take("p1") == []


def test_an_owner_that_dies_without_an_answer_is_not_waited_for() -> None:
    head = make_head()
    request = make_request("r", 12)
    head.say("p2", BlocksCached(request.block_hashes[:1], (150,)))
    head.say("d2", BlocksCached(request.block_hashes[1:2], (350,)))
    head.arrive(request)
    head.say("d1", Reserved(R, 1))
    placed = head.core.snapshot()
    assert placed.leases == 1, "p2 is chosen for its cached block; d2 has the other"
    head.take("p2")
    head.lose("d2")
    start = head.take_one("p2", StartPrefill)
    assert start.borrowed == {}


def test_an_owner_that_dies_after_its_answer_keeps_its_blocks_lent() -> None:
    head = make_head()
    request = make_request("r", 12)
    head.say("d2", BlocksCached(request.block_hashes[:2], (350, 351)))
    head.arrive(request)
    (lease,) = head.take("d2")[-1:]
    assert isinstance(lease, LeaseBlocks)
    head.say("d2", Leased(lease.lease_id, (350, 351)))
    head.lose("d2")
    head.say("d1", Reserved(R, 1))
    assert head.take_one("p1", StartPrefill).borrowed == {0: 350, 1: 351}
    assert head.core.adopted_leases(WorkerId("d2")) == {lease.lease_id: (350, 351)}


def test_either_worker_lost_while_placing() -> None:
    for lost, next_one in (("p1", "p2"), ("d1", "p1")):
        head = make_head()
        place(head)
        head.lose(lost)
        if lost == "p1":
            reserve, drop = head.take("d1")
            assert isinstance(reserve, Reserve) and (reserve.attempt, reserve.blocks) == (1, 3)
            assert drop == DropWork(R, 1)
        assert head.take_one("d2", Reserve).attempt == 2, "it is placed again before d1 has confirmed"
        head.say("d2", Reserved(R, 2))
        head.take_one(next_one, StartPrefill)


@pytest.mark.parametrize(
    ("output", "stop", "reason"),
    [((77, 78, 79), (), FinishReason.LENGTH), ((77, 9), (9,), FinishReason.STOP)],
    ids=["length", "stop token"],
)
def test_an_output_that_is_complete_ends_finished_although_its_worker_could_not_say_so(
    output: tuple[int, ...], stop: tuple[int, ...], reason: FinishReason
) -> None:
    head = make_head()
    head.arrive(make_request("r", 10, max_tokens=3, stop=stop))
    head.say("d1", Reserved(R, 1))
    head.say("p1", PrefillDone(R, 1, (5, 6, 7), 10), output=(77,))
    head.say("d1", DecodeStarted(R, 1))
    head.lose("d1", r=output)
    assert (head.reports["r"].state, head.reports["r"].finish_reason) == (State.FINISHED, reason)
    assert len(head.reports["r"].placements) == 1


def test_a_stop_string_that_waits_for_a_dead_worker_ends() -> None:
    head = make_head()
    decode(head)
    head.tell(StopMatched(R))
    head.lose("d1", r=(77, 78))
    assert head.reports["r"].finish_reason is FinishReason.STOP


def test_a_client_that_leaves_while_its_attempt_is_undone_is_not_queued_again() -> None:
    head = make_head()
    prefill(head)
    head.lose("d1", r=())
    head.tell(ClientGone(R))
    clear(head)
    head.say("p1", Dropped(R, 1))
    assert head.reports["r"].state is State.ABORTED
    assert [type(send.command) for send in head.sent] == [ReleaseLease]
    assert head.core.snapshot().idle


def test_too_many_losses_fail_the_request() -> None:
    head = make_head(max_losses=1)
    decode(head)
    head.lose("d1", r=(77, 78))
    head.say("d2", Reserved(R, 2))
    head.say("p1", PrefillDone(R, 2, (8, 9, 10), 12), output=(77, 78, 79))
    head.say("d2", DecodeStarted(R, 2))
    head.lose("d2", r=(77, 78, 79))
    report = head.reports["r"]
    assert (report.state, report.error_code) == (State.FAILED, "worker_lost")
    assert len(report.placements) == 2


def test_one_pair_survives_the_loss_of_either_worker() -> None:
    for lost, left in (("p", "d"), ("d", "p")):
        head = Head()
        head.join(make_info("p", Role.PREFILL, start=0))
        head.join(make_info("d", Role.DECODE, start=100))
        head.lose(lost)
        head.arrive(make_request("r"))
        assert head.take_one(left, StartPrefill).export_lease is None
        head.say(left, Finished(R, 1, FinishReason.LENGTH))
        assert "so any may do it" in head.reports["r"].placements[0].reason


def test_without_any_worker_requests_wait_for_a_while_and_then_fail() -> None:
    head = Head(LimitsSpec(no_worker_timeout_s=10.0))
    head.join(make_info("m", Role.MIXED))
    head.arrive(make_request("a"))
    head.lose("m", a=(5,))
    head.wait(6.0)
    head.arrive(make_request("b"))
    head.wait(6.0)
    assert head.reports["a"].error_code == "worker_lost" and "b" not in head.reports
    head.wait(6.0)
    assert head.reports["b"].error_code == "worker_lost"
    assert head.core.snapshot().idle


def test_a_worker_that_comes_back_in_time_takes_the_waiting_request() -> None:
    head = Head(LimitsSpec(no_worker_timeout_s=10.0))
    head.join(make_info("m", Role.MIXED))
    head.arrive(make_request("r"))
    head.take("m")
    head.lose("m", r=(5,))
    head.wait(9.0)
    head.join(make_info("m", Role.MIXED, incarnation=2))
    assert head.take_one("m", StartPrefill).work.token_ids == (*range(10), 5)
    head.wait(3.0)
    assert not head.reports


def test_silence_is_answered_with_a_kill_and_only_once() -> None:
    head = make_head(heartbeat_timeout_s=5.0)
    head.wait(4.0)
    for worker in ("p1", "d1", "d2"):
        head.beat(worker, FREE)
    head.wait(2.0)
    assert [kill.worker_id for kill in head.kills] == ["p2"]
    assert "silent" in head.kills[0].reason
    place(head)
    assert head.take("p2") == [], "a condemned worker gets no work"
    head.wait(0.5)
    assert len(head.kills) == 1
    views = {view.info.worker_id: view for view in head.core.snapshot().workers}
    assert views[WorkerId("p2")].alive and not views[WorkerId("p2")].usable


def test_a_busy_worker_without_a_step_is_killed_and_an_idle_one_is_not() -> None:
    head = Head(LimitsSpec(heartbeat_timeout_s=5.0, stall_timeout_s=20.0))
    head.join(make_info("m", Role.MIXED))
    for _ in range(30):
        head.wait(1.0)
        head.beat("m", FREE)
    assert not head.kills
    for second in range(30):
        head.wait(1.0)
        head.beat("m", WorkerStats(free_blocks=100, busy=True, steps=min(second, 5)))
    assert ["busy" in kill.reason for kill in head.kills] == [True]


def test_a_pause_of_the_head_is_not_the_workers_silence() -> None:
    head = make_head(heartbeat_timeout_s=5.0)
    hand_off(head)
    clear(head)
    head.now_s += 90.0
    head.tell(HeadResumed(90.0))
    assert not head.kills and not head.sent, "nor is a handoff too slow that nobody could hear of"
    head.wait(6.0)
    assert len(head.kills) == 4


def test_a_heartbeat_that_comes_late_is_still_a_heartbeat() -> None:
    head = Head(LimitsSpec(heartbeat_timeout_s=5.0))
    head.join(make_info("m", Role.MIXED))
    head.now_s += 6.0
    head.beat("m", FREE)
    assert not head.kills


def test_stale_incarnations_are_ignored() -> None:
    head = Head()
    head.join(make_info("m", Role.MIXED, incarnation=3))
    head.tell(WorkerJoined(make_info("m", Role.MIXED, incarnation=2)))
    head.tell(WorkerLostEvent(WorkerId("m"), 2, "old"))
    head.tell(Heartbeat(WorkerId("m"), 2, WorkerStats(steps=99)))
    (view,) = head.core.snapshot().workers
    assert view.alive and view.info.incarnation == 3 and view.stats.steps == 0


def test_a_newer_incarnation_before_the_loss_of_the_older_is_a_bug() -> None:
    head = Head()
    head.join(make_info("m", Role.MIXED))
    with pytest.raises(Bug, match="before its earlier incarnation was lost"):
        head.tell(WorkerJoined(make_info("m", Role.MIXED, incarnation=2)))


def test_a_refused_reservation_is_not_asked_again_until_something_changes() -> None:
    head = Head()
    head.join(make_info("p", Role.PREFILL))
    head.join(make_info("d", Role.DECODE, start=100))
    head.arrive(make_request("r"))
    head.take("d")
    head.say("d", ReserveRefused(R, 1, available_blocks=2))
    head.arrive(make_request("other", 10, max_tokens=1))
    assert head.take_one("d", Reserve).request_id == "other", "this one needs no more than 2 blocks"
    head.wait(0.2)
    assert head.take("d") == []
    head.wait(0.1)
    assert head.take_one("d", Reserve).attempt == 2, "after a while it is asked again"
    head.say("d", ReserveRefused(R, 2, available_blocks=2))
    head.beat("d", WorkerStats(free_blocks=50))
    assert head.take_one("d", Reserve).attempt == 3, "it has told us of more room"


def test_an_unanswered_reservation_is_given_up() -> None:
    head = make_head(placing_timeout_s=3.0, heartbeat_timeout_s=1000.0)
    place(head)
    clear(head)
    head.wait(3.5)
    assert head.take("d1") == [DropWork(R, 1)]
    assert head.take_one("d2", Reserve).attempt == 2


def test_a_handoff_that_takes_too_long_is_given_up_and_counts_as_a_failure() -> None:
    head = make_head(handoff_timeout_s=5.0, max_losses=0, heartbeat_timeout_s=1000.0)
    hand_off(head)
    clear(head)
    head.wait(5.5)
    assert head.take("d1") == [DropWork(R, 1)]
    assert not head.reports
    head.say("d1", Dropped(R, 1), output=(77,))
    assert head.reports["r"].error_code == "handoff_failed"
    assert head.core.snapshot().idle


def test_a_prompt_that_waits_at_an_idle_worker_is_taken_away() -> None:
    head = make_head(placing_timeout_s=3.0, heartbeat_timeout_s=1000.0)
    place(head)
    head.say("d1", Reserved(R, 1))
    head.beat("p1", WorkerStats(free_blocks=3, busy=True, running=1))
    head.wait(3.5)
    assert head.core.snapshot().requests == {State.PREFILLING: 1}, "it works: others come first there"
    head.beat("p1", WorkerStats(free_blocks=3, busy=False, waiting=1))
    clear(head)
    head.wait(3.5)
    assert head.take("p1") == [DropWork(R, 1)] and head.take("d1") == [DropWork(R, 1)]
    head.say("p1", Dropped(R, 1), output=())
    head.say("d1", Dropped(R, 1), output=())
    assert head.core.snapshot().attempts == 1


def test_a_prompt_that_has_started_may_take_long() -> None:
    head = make_head(placing_timeout_s=3.0, heartbeat_timeout_s=1000.0)
    prefill(head)
    head.wait(500.0)
    assert head.core.snapshot().requests == {State.PREFILLING: 1}


def test_waiting_too_long_is_a_rejection_before_and_a_failure_after_the_first_token() -> None:
    head = Head(LimitsSpec(queue_timeout_s=30.0, no_worker_timeout_s=1000.0))
    head.arrive(make_request("new"))
    head.join(make_info("m", Role.MIXED))
    head.lose("m", new=())
    head.join(make_info("m", Role.MIXED, incarnation=2))
    head.lose("m", new=(5,))
    head.arrive(make_request("other"))
    head.wait(31.0)
    assert (head.reports["other"].state, head.reports["other"].error_code) == (
        State.REJECTED,
        "deadline_exceeded",
    )
    assert head.reports["new"].state is State.FAILED


def test_a_decode_worker_that_dies_in_the_handoff_after_the_prefill_worker() -> None:
    head = make_head()
    hand_off(head)
    head.lose("p1", r=(77,))
    head.lose("d1", r=(77,))
    head.say("d2", Reserved(R, 2))
    assert head.take_one("p2", StartPrefill).work.token_ids == (*range(10), 77)
    (reserve,) = head.take("d2")
    assert isinstance(reserve, Reserve) and reserve.work.token_ids == (*range(10), 77)
    head.say("p2", PrefillDone(R, 2, (105, 106, 107), 11), output=(77, 78))
    assert head.take_one("d2", StartDecode).new_token_ids == (78,)


def test_who_was_idle_for_long_is_not_stalled_when_it_becomes_busy() -> None:
    head = Head(LimitsSpec(heartbeat_timeout_s=5.0, stall_timeout_s=20.0))
    head.join(make_info("m", Role.MIXED))
    for _ in range(30):
        head.wait(1.0)
        head.beat("m", FREE)
    for _ in range(15):
        head.wait(1.0)
        head.beat("m", WorkerStats(free_blocks=100, busy=True))
    assert not head.kills


def test_a_wish_is_renewed_after_each_tick_even_an_early_one() -> None:
    head = Head(LimitsSpec(heartbeat_timeout_s=5.0))
    head.join(make_info("m", Role.MIXED))
    wish_s, head.wish_s = head.wish_s, None
    head.now_s += 1.0
    head.tell(Tick())
    assert head.wish_s == wish_s == 105.0
    head.wish_s = None
    head.tell(ClientGone(R))
    assert head.wish_s is None, "it is out already"


def test_blocks_behind_a_hole_are_not_borrowed() -> None:
    head = make_head()
    request = make_request("r", 12)
    head.say("d1", BlocksCached(request.block_hashes[:1], (250,)))
    head.say("d2", BlocksCached(request.block_hashes[1:2], (350,)))
    head.arrive(request)
    for worker, block_ids in (("d1", ()), ("d2", (350,))):
        (lease,) = [order for order in head.take(worker) if isinstance(order, LeaseBlocks)]
        head.say(worker, Leased(lease.lease_id, block_ids))
    head.say("d1", Reserved(R, 1))
    assert head.take_one("p1", StartPrefill).borrowed == {}
