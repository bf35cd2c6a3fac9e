"""KV from another memory domain: what is reserved, fetched, given back, and lost with its source."""

from __future__ import annotations

import msgspec
import pytest

from diptych.domain.cluster import LimitsSpec
from diptych.domain.commands import DropWork, LeaseBlocks, ReleaseLease, Reserve, StartDecode, StartPrefill
from diptych.domain.events import (
    FETCH_FAILED,
    BlocksCached,
    Bounced,
    DecodeStarted,
    Dropped,
    Finished,
    Leased,
    PrefillDone,
    PrefillStarted,
    Reserved,
)
from diptych.domain.ids import LeaseId, RequestId, WorkerId
from diptych.domain.lifecycle import State
from diptych.domain.report import HandoffKind
from diptych.domain.request import FinishReason
from diptych.domain.worker import Role, WorkerStats
from diptych.orchestration.explain import candidates
from support.head import BLOCK_BYTES, FixedCost, Head, make_info, make_request

R = RequestId("r")
P1 = WorkerId("p1")


def make_head(cost: FixedCost | None = None, max_losses: int = 4) -> Head:
    """Prefill workers p1, p2 in one domain, decode workers d1, d2 in another; block ids overlap."""
    head = Head(LimitsSpec(max_losses=max_losses), cost=cost)
    for number in (0, 1):
        head.join(make_info(f"p{number + 1}", Role.PREFILL, start=100 * number, domain="there"))
        head.join(make_info(f"d{number + 1}", Role.DECODE, start=100 * number, domain="here"))
    return head


def prefill(head: Head) -> StartPrefill:
    """Request r of 10 tokens is being computed by p1, to be decoded by d1."""
    head.arrive(make_request("r", 10))
    head.take_one("d1", Reserve)
    head.say("d1", Reserved(R, 1))
    start = head.take_one("p1", StartPrefill)
    head.say("p1", PrefillStarted(R, 1, 0))
    return start


def export_of(start: StartPrefill) -> LeaseId:
    """The lease that it ends in."""
    assert start.export_lease is not None
    return start.export_lease


def fetch(head: Head) -> StartDecode:
    """… and is done, and d1 fetches its KV."""
    prefill(head)
    head.say("p1", PrefillDone(R, 1, (5, 6, 7), 10), output=(77,))
    return head.take_one("d1", StartDecode)


def test_a_streamed_life_in_full() -> None:
    head = make_head()
    head.arrive(make_request("r", 10, max_tokens=8))
    assert head.take_one("d1", Reserve).blocks == 5, "10 tokens and 8 of output, all in blocks of its own"
    head.say("d1", Reserved(R, 1))
    start = head.take_one("p1", StartPrefill)
    head.say("p1", PrefillStarted(R, 1, 0))
    head.wait(0.5)
    head.say("p1", PrefillDone(R, 1, (5, 6, 7), 10), output=(77,))
    order = head.take_one("d1", StartDecode)
    assert (order.source, order.block_ids, order.computed_tokens) == ("p1", (5, 6, 7), 10)
    assert head.core.adopted_leases(P1) == {start.export_lease: (5, 6, 7)}
    head.wait(0.25)
    head.say("d1", DecodeStarted(R, 1, copied_bytes=2 * BLOCK_BYTES))
    assert head.take("p1") == [ReleaseLease(export_of(start))], "at once, not at the end"
    views = {view.info.worker_id: view for view in head.core.snapshot().workers}
    assert views[P1].promised_blocks == 0 and views[WorkerId("d1")].promised_blocks == 5
    head.say("d1", Finished(R, 1, FinishReason.LENGTH))
    report = head.reports["r"].handoff
    assert (report.kind, report.blocks) == (HandoffKind.STREAM, 3)
    assert report.bytes_streamed == 2 * BLOCK_BYTES, "one block was cached at d1"
    assert report.bytes_lent == report.bytes_copied == 0 and report.handoff_s == pytest.approx(0.25)
    assert head.cost.handoffs == [("d1", 10, pytest.approx(0.5), pytest.approx(0.25))]
    assert head.core.snapshot().idle


def test_what_is_lent_to_the_prefill_goes_back_with_its_export() -> None:
    head = make_head(FixedCost({"p2": 100.0}))
    request = make_request("r", 12)
    head.say("p2", BlocksCached(request.block_hashes[:2], (150, 151)))
    head.say("d1", BlocksCached(request.block_hashes[:2], (50, 51)))
    head.beat("p2", WorkerStats(free_blocks=98, cached_blocks=2))
    head.arrive(request)
    assert [type(order) for order in head.take("d1")] == [Reserve], "nothing is lent to another domain"
    lease = head.take_one("p2", LeaseBlocks)
    head.say("p2", Leased(lease.lease_id, (150, 151)))
    head.say("d1", Reserved(R, 1))
    start = head.take_one("p1", StartPrefill)
    assert start.borrowed == {0: 150, 1: 151}
    head.say("p1", PrefillDone(R, 1, (150, 151, 3), 12), output=(77,))
    assert head.take_one("d1", StartDecode).block_ids == (150, 151, 3)
    head.say("d1", DecodeStarted(R, 1))
    assert head.take("p2") == [ReleaseLease(lease.lease_id)]
    assert head.take("p1") == [ReleaseLease(export_of(start))]


def test_a_source_that_dies_while_its_blocks_are_fetched_takes_the_attempt_with_it() -> None:
    head = make_head()
    fetch(head)
    head.lose("p1", r=(77,))
    assert head.take("d1") == [DropWork(R, 1)]
    assert head.core.snapshot().requests == {State.HANDING_OFF: 1}, "d1 still has to confirm"
    head.say("d1", DecodeStarted(R, 1))
    head.say("d1", Dropped(R, 1), output=(77, 78))
    reserve = next(send.command for send in head.sent if isinstance(send.command, Reserve))
    assert reserve.attempt == 2 and reserve.work.token_ids == (*range(10), 77, 78)
    head.join(make_info("p1", Role.PREFILL, incarnation=2, domain="there"))
    assert [type(order) for order in head.take("p1")] == [ReleaseLease], (
        "its next incarnation held the blocks"
    )


def test_a_source_that_dies_after_the_fetch_is_not_missed() -> None:
    head = make_head()
    fetch(head)
    head.say("d1", DecodeStarted(R, 1))
    head.sent.clear()
    head.lose("p1", r=(77, 78))
    assert head.sent == [] and head.core.snapshot().requests == {State.DECODING: 1}
    assert head.core.adopted_leases(P1) == {}


def test_another_owner_of_the_blocks_may_die_for_the_source_can_read_them() -> None:
    head = make_head()
    fetch(head)
    head.lose("p2", r=(77,))
    assert head.core.snapshot().requests == {State.HANDING_OFF: 1} and head.take("d1") == []


def test_a_decode_worker_that_dies_or_gives_back_while_it_fetches_releases_the_source() -> None:
    for lost in (True, False):
        head = make_head()
        fetch(head)
        if lost:
            head.lose("d1", r=(77,))
        else:
            head.say("d1", Bounced(R, 1, "kv_pressure"), output=(77,))
        assert [type(order) for order in head.take("p1")] == [ReleaseLease]
        assert head.take_one("d2", Reserve).attempt == 2


def test_a_decode_worker_that_cannot_hold_the_whole_sequence_is_no_candidate() -> None:
    head = Head()
    head.join(make_info("p1", Role.PREFILL, domain="there"))
    head.join(make_info("d1", Role.DECODE, blocks=3, domain="here"))
    head.join(make_info("d2", Role.DECODE, start=3, blocks=4, domain="here"))
    head.arrive(make_request("r", 12))
    reserve = head.take_one("d2", Reserve)
    assert reserve.blocks == 4, "capped by what an empty arena has"
    head.say("d2", Reserved(R, 1))
    head.say("p1", Finished(R, 1, FinishReason.LENGTH))
    rejected = {str(it.decode_worker): it.rejected for it in candidates(head.reports["r"].placements[0])}
    assert rejected["d1"] == "arena: 4 blocks needed to decode, 3 exist"


def test_what_no_decode_worker_could_hold_is_turned_away_at_once() -> None:
    head = Head()
    head.join(make_info("p1", Role.PREFILL, domain="there"))
    head.join(make_info("d1", Role.DECODE, blocks=3, domain="here"))
    head.arrive(make_request("r", 12))
    assert head.reports["r"].error_code == "context_length_exceeded"
    head.arrive(make_request("fits", 11))
    assert "fits" not in head.reports


def test_blocks_of_different_sizes_are_not_streamed() -> None:
    head = make_head()
    info = msgspec.structs.replace(make_info("d9", Role.DECODE, domain="else"), block_tokens=8)
    head.join(info)
    head.arrive(make_request("r", 10))
    head.tell_gone("r")
    rejected = {str(it.decode_worker): it.rejected for it in candidates(head.reports["r"].placements[0])}
    assert rejected["d9"] is not None and rejected["d9"].startswith("domain: blocks of 4 tokens there")


def test_a_fetch_that_fails_counts_as_a_failure_and_leaves_the_worker_usable() -> None:
    head = make_head(max_losses=1)
    fetch(head)
    head.say("d1", Bounced(R, 1, FETCH_FAILED), output=(77,))
    assert head.take_one("d1", Reserve).attempt == 2, "it was not for want of room"
    head.say("d1", Reserved(R, 2))
    (start,) = [order for order in head.take("p1") if isinstance(order, StartPrefill)]
    head.say("p1", PrefillDone(R, 2, (5, 6, 7), len(start.work.token_ids)), output=(77, 78))
    head.say("d1", Bounced(R, 2, FETCH_FAILED), output=(77, 78))
    assert head.reports["r"].error_code == "handoff_failed"
