"""The undisturbed life of a request, order by order, and its ends."""

from __future__ import annotations

from collections.abc import Callable

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
from diptych.domain.errors import Bug
from diptych.domain.events import (
    BlocksCached,
    Bounced,
    ClientGone,
    DecodeStarted,
    Dropped,
    Finished,
    Leased,
    PrefillDone,
    PrefillStarted,
    RequestArrived,
    Reserved,
    StopMatched,
)
from diptych.domain.ids import LeaseId, RequestId, WorkerId
from diptych.domain.lifecycle import State
from diptych.domain.report import HandoffKind, Moment
from diptych.domain.request import FinishReason
from diptych.domain.worker import Role
from support.head import BLOCK_BYTES, BLOCK_TOKENS, Head, make_info, make_request

R = RequestId("r")


def split_head() -> Head:
    """One prefill worker (blocks 0–99), one decode worker (blocks 100–199)."""
    head = Head()
    head.join(make_info("p", Role.PREFILL, start=0))
    head.join(make_info("d", Role.DECODE, start=100))
    return head


def prefill(head: Head) -> StartPrefill:
    """Request r of 10 tokens arrives and is being computed by p."""
    head.arrive(make_request("r", 10))
    head.take_one("d", Reserve)
    head.say("d", Reserved(R, 1))
    start = head.take_one("p", StartPrefill)
    head.say("p", PrefillStarted(R, 1, 0))
    return start


def hand_off(head: Head) -> StartDecode:
    """… and is handed to d with its first token."""
    prefill(head)
    head.wait(1.0)
    head.say("p", PrefillDone(R, 1, (5, 6, 7), 10), output=(77,))
    return head.take_one("d", StartDecode)


def decode(head: Head) -> None:
    """… and decodes there."""
    hand_off(head)
    head.wait(0.25)
    head.say("d", DecodeStarted(R, 1, copied_bytes=BLOCK_BYTES))


def test_split_life_in_full() -> None:
    head = split_head()
    head.arrive(make_request("r", 10, max_tokens=8))
    reserve = head.take_one("d", Reserve)
    assert reserve.blocks == 3, "8 tokens of output fill 2 blocks, and one is copied"
    assert head.take("p") == [], "no prefill before decode blocks are reserved"
    head.say("d", Reserved(R, 1))
    start = head.take_one("p", StartPrefill)
    assert start.export_lease is not None and start.borrowed == {}
    assert start.work.token_ids == tuple(range(10)) and start.work.prompt_tokens == 10
    head.say("p", PrefillStarted(R, 1, cached_tokens=0))
    head.wait(1.0)
    head.say("p", PrefillDone(R, 1, (5, 6, 7), 10), output=(77,))
    handed = head.take_one("d", StartDecode)
    assert reserve.work == start.work, "the decode worker knows the prompt beforehand"
    assert handed.new_token_ids == (77,)
    assert (handed.block_ids, handed.computed_tokens) == ((5, 6, 7), 10)
    assert head.core.adopted_leases(WorkerId("p")) == {start.export_lease: (5, 6, 7)}
    head.wait(0.25)
    head.say("d", DecodeStarted(R, 1, copied_bytes=BLOCK_BYTES))
    head.wait(2.0)
    head.say("d", Finished(R, 1, FinishReason.LENGTH))
    assert head.take("p") == [ReleaseLease(start.export_lease)]
    assert head.take("d") == []
    report = head.reports["r"]
    assert (report.state, report.finish_reason) == (State.FINISHED, FinishReason.LENGTH)
    assert report.handoff.kind is HandoffKind.BORROW
    assert (report.handoff.blocks, report.handoff.bytes_copied) == (3, BLOCK_BYTES)
    assert report.handoff.bytes_lent == 2 * BLOCK_BYTES, "two of the three blocks are full"
    assert report.handoff.handoff_s == pytest.approx(0.25)
    assert head.cost.handoffs == [("d", 10, None, pytest.approx(0.25))]
    assert list(report.moments) == [moment for moment in Moment if moment is not Moment.FLUSHED]
    assert report.moments[Moment.FIRST_TOKEN] == pytest.approx(101.0)
    assert head.core.snapshot().idle


def test_one_mixed_worker_reserves_and_exports_nothing() -> None:
    head = Head()
    head.join(make_info("m", Role.MIXED))
    head.arrive(make_request("r"))
    assert head.take_one("m", StartPrefill).export_lease is None
    head.say("m", PrefillStarted(R, 1, 0))
    assert head.core.snapshot().workers[0].backlog_tokens == 10
    head.say("m", DecodeStarted(R, 1))
    assert head.core.snapshot().requests == {State.DECODING: 1}
    assert head.core.snapshot().workers[0].backlog_tokens == 0
    head.say("m", Finished(R, 1, FinishReason.STOP))
    report = head.reports["r"]
    assert report.finish_reason is FinishReason.STOP and report.handoff.kind is HandoffKind.NONE
    assert head.take("m") == [] and head.core.snapshot().idle


def test_a_first_token_that_is_the_last_leaves_no_reservation() -> None:
    head = split_head()
    prefill(head)
    head.say("p", Finished(R, 1, FinishReason.LENGTH))
    assert head.reports["r"].state is State.FINISHED
    assert head.take_one("d", DropWork) == DropWork(R, 1)
    assert not head.core.snapshot().idle
    head.say("d", Dropped(R, 1))
    assert head.core.snapshot().idle


def test_cached_blocks_of_another_worker_are_leased_before_prefill() -> None:
    head = split_head()
    request = make_request("r", 12)
    head.say("d", BlocksCached(request.block_hashes[:2], (150, 151)))
    head.arrive(request)
    reserve, lease = head.take("d")
    assert isinstance(reserve, Reserve) and isinstance(lease, LeaseBlocks)
    assert lease.hashes == request.block_hashes[:2]
    head.say("d", Reserved(R, 1))
    assert head.take("p") == [], "the lease is not answered"
    head.say("d", Leased(lease.lease_id, (150, 151)))
    start = head.take_one("p", StartPrefill)
    assert start.borrowed == {0: 150, 1: 151}
    assert head.core.adopted_leases(WorkerId("d")) == {lease.lease_id: (150, 151)}
    head.say("p", PrefillStarted(R, 1, cached_tokens=8))
    head.say("p", Finished(R, 1, FinishReason.LENGTH))
    assert head.reports["r"].cached_tokens == 8
    assert head.take("d") == [DropWork(R, 1)], "no release before everyone has stopped"
    head.say("d", Dropped(R, 1))
    assert head.take("d") == [ReleaseLease(lease.lease_id)]


def test_an_export_covers_the_own_blocks_only() -> None:
    """Borrowed ones are under the lease of their owner, whose next incarnation has to know them."""
    head = split_head()
    request = make_request("r", 12)
    head.say("d", BlocksCached(request.block_hashes[:2], (150, 151)))
    head.arrive(request)
    _, lease = head.take("d")
    assert isinstance(lease, LeaseBlocks)
    head.say("d", Leased(lease.lease_id, (150, 151)))
    head.say("d", Reserved(R, 1))
    start = head.take_one("p", StartPrefill)
    head.say("p", PrefillDone(R, 1, (150, 151, 3), 12), output=(77,))
    assert head.core.adopted_leases(WorkerId("p")) == {start.export_lease: (3,)}
    assert head.core.adopted_leases(WorkerId("d")) == {lease.lease_id: (150, 151)}
    assert head.take_one("d", StartDecode).block_ids == (150, 151, 3)


def test_a_lease_that_got_shorter_or_empty_is_used_as_far_as_it_goes() -> None:
    for block_ids in ((150,), ()):
        head = split_head()
        request = make_request("r", 12)
        head.say("d", BlocksCached(request.block_hashes[:2], (150, 151)))
        head.arrive(request)
        _, lease = head.take("d")
        assert isinstance(lease, LeaseBlocks)
        head.say("d", Leased(lease.lease_id, block_ids))
        head.say("d", Reserved(R, 1))
        assert head.take_one("p", StartPrefill).borrowed == dict(enumerate(block_ids))


def test_the_last_token_is_never_taken_from_the_cache() -> None:
    head = split_head()
    request = make_request("r", 2 * BLOCK_TOKENS)
    head.say("d", BlocksCached(request.block_hashes, (150, 151)))
    head.arrive(request)
    _, lease = head.take("d")
    assert isinstance(lease, LeaseBlocks) and lease.hashes == request.block_hashes[:1]


def test_prompt_logprobs_read_no_cache() -> None:
    head = split_head()
    request = make_request("r", 12, prompt_logprobs=0)
    head.say("d", BlocksCached(request.block_hashes, (150, 151, 152)))
    head.arrive(request)
    assert [type(order) for order in head.take("d")] == [Reserve]


def test_a_bounced_request_goes_on_from_its_tokens() -> None:
    head = split_head()
    decode(head)
    head.say("d", Bounced(R, 1, "kv_pressure"), output=(77, 78, 79))
    assert [type(order) for order in head.take("p")] == [ReleaseLease]
    assert head.core.snapshot().requests == {State.QUEUED: 1}
    head.wait(1.0)
    assert head.take_one("d", Reserve).attempt == 2
    head.say("d", Reserved(R, 2))
    start = head.take_one("p", StartPrefill)
    assert start.work.token_ids == (*range(10), 77, 78, 79)
    assert start.work.output_tokens == 3 and len(start.work.block_hashes) == 3
    assert start.work.arrival_s == 100.0, "it keeps its place"


def test_a_stop_string_ends_when_the_worker_has_confirmed() -> None:
    head = split_head()
    decode(head)
    head.tell(StopMatched(R))
    assert head.take_one("d", FinishWork) == FinishWork(R, 1)
    assert not head.reports
    head.tell(StopMatched(R))
    head.say("d", Dropped(R, 1))
    assert head.reports["r"].finish_reason is FinishReason.STOP
    assert [type(order) for order in head.take("p")] == [ReleaseLease]
    assert head.core.snapshot().idle


@pytest.mark.parametrize(
    "crossing",
    [Finished(R, 1, FinishReason.LENGTH), Bounced(R, 1, "kv_pressure")],
    ids=["finished", "bounced"],
)
def test_a_stop_string_wins_over_what_crosses_it(crossing: Finished | Bounced) -> None:
    head = split_head()
    decode(head)
    head.tell(StopMatched(R))
    head.say("d", crossing, output=(77, 78))
    assert head.reports["r"].finish_reason is FinishReason.STOP
    head.say("d", Dropped(R, 1))
    assert head.core.snapshot().idle


def test_a_stop_string_during_the_handoff() -> None:
    head = split_head()
    hand_off(head)
    head.tell(StopMatched(R))
    head.take_one("d", FinishWork)
    head.say("d", DecodeStarted(R, 1))
    head.say("d", Dropped(R, 1))
    assert head.reports["r"].finish_reason is FinishReason.STOP and head.core.snapshot().idle


def test_a_stop_string_while_it_waits_again_ends_at_once() -> None:
    head = split_head()
    decode(head)
    head.lose("d", r=(77, 78))
    head.lose("p")
    assert head.core.snapshot().requests == {State.QUEUED: 1}
    head.tell(StopMatched(R))
    assert head.reports["r"].finish_reason is FinishReason.STOP


def _nothing(head: Head) -> None:
    head.arrive(make_request("r", 10))
    head.take("d")


@pytest.mark.parametrize(
    ("stage", "told"),
    [
        (_nothing, {"d": DropWork}),
        (prefill, {"p": DropWork, "d": DropWork}),
        (hand_off, {"d": DropWork}),
        (decode, {"d": DropWork}),
    ],
    ids=["placing", "prefilling", "handing off", "decoding"],
)
def test_a_client_that_leaves_is_reported_at_once_and_cleaned_up_behind(
    stage: Callable[[Head], object], told: dict[str, type]
) -> None:
    head = split_head()
    stage(head)
    head.sent.clear()
    head.tell(ClientGone(R))
    assert head.reports["r"].state is State.ABORTED
    for worker in ("p", "d"):
        orders = head.take(worker)
        assert [type(order) for order in orders] == ([told[worker]] if worker in told else [])
        if orders:
            head.say(worker, Dropped(R, 1))
    released = [type(order) for order in head.take("p")]
    assert released == ([] if stage is _nothing else [ReleaseLease])
    assert head.core.snapshot().idle
    head.tell(ClientGone(R))


def test_a_prefill_that_ends_while_its_client_leaves_gives_its_export_back() -> None:
    head = split_head()
    start = prefill(head)
    head.tell(ClientGone(R))
    head.take("p")
    head.say("p", PrefillDone(R, 1, (5, 6, 7), 10))
    head.say("p", Dropped(R, 1))
    head.say("d", Dropped(R, 1))
    assert head.take("p") == [ReleaseLease(start.export_lease or LeaseId(""))]
    assert head.core.snapshot().idle


def test_a_late_lease_is_released_at_once() -> None:
    head = split_head()
    request = make_request("r", 12)
    head.say("d", BlocksCached(request.block_hashes[:2], (150, 151)))
    head.arrive(request)
    _, lease = head.take("d")
    assert isinstance(lease, LeaseBlocks)
    head.tell(ClientGone(R))
    head.say("d", Dropped(R, 1))
    head.take("d")
    assert head.core.snapshot().leases == 1
    head.say("d", Leased(lease.lease_id, (150, 151)))
    assert head.take("d") == [ReleaseLease(lease.lease_id)]
    assert head.core.snapshot().idle


def test_what_nobody_waits_for_is_ignored() -> None:
    head = split_head()
    before = head.core.snapshot()
    for event in (Reserved(R, 1), Dropped(R, 1), Finished(R, 1, FinishReason.STOP), DecodeStarted(R, 3)):
        head.say("d", event)
    head.say("d", Bounced(R, 1, "x"), output=())
    head.tell(StopMatched(R))
    assert head.core.snapshot() == before and not head.reports and not head.sent


def test_a_request_that_arrives_twice_is_a_bug() -> None:
    head = split_head()
    head.arrive(make_request("r"))
    with pytest.raises(Bug, match="arrived twice"):
        head.tell(RequestArrived(request=make_request("r"), received_s=0.0, tokenised_s=0.0))


def test_a_handover_without_the_output_so_far_is_a_bug() -> None:
    head = split_head()
    prefill(head)
    with pytest.raises(Bug, match="without its output"):
        head.say("p", PrefillDone(R, 1, (5, 6, 7), 10))


def test_moments_stay_in_order_although_workers_clocks_lag() -> None:
    head = split_head()
    prefill(head)
    head.now_s -= 0.5
    head.say("p", PrefillDone(R, 1, (5, 6, 7), 10), output=(77,))
    head.say("d", Finished(R, 1, FinishReason.LENGTH))
    times = list(head.reports["r"].moments.values())
    assert times == sorted(times)
