"""A million requests must fit: what has ended leaves nothing, and what waits in vain costs nothing."""

from __future__ import annotations

import gc
from collections import Counter

from diptych.domain.cluster import LimitsSpec
from diptych.domain.commands import LeaseBlocks, Reserve, StartPrefill
from diptych.domain.events import (
    BlocksCached,
    BlocksEvicted,
    DecodeStarted,
    Dropped,
    Finished,
    Leased,
    PrefillDone,
    PrefillStarted,
    Reserved,
)
from diptych.domain.ids import RequestId, WorkerId
from diptych.domain.request import FinishReason
from diptych.domain.worker import Role
from diptych.orchestration.attempts import Attempt
from diptych.orchestration.jobs import Job
from diptych.orchestration.leases import Lease
from diptych.orchestration.timers import STALE_ENTRIES
from support.head import Head, make_info, make_request


def serve(head: Head, number: int) -> None:
    """One request in one of several ways: finished, cancelled, turned away; its blocks come and go."""
    rid = RequestId(f"r{number}")
    request = make_request(rid, [number, number + 1, *range(14)])
    if number % 7 == 0:
        head.say("d", BlocksCached(request.block_hashes[:1], (150,)))
    head.arrive(request)
    for order in head.take("d"):
        if isinstance(order, Reserve):
            head.say("d", Reserved(rid, 1))
        elif isinstance(order, LeaseBlocks):
            head.say("d", Leased(order.lease_id, (150,)))
    if number % 7 == 0:
        head.say("d", BlocksEvicted(request.block_hashes[:1]))
    (start,) = [order for order in head.take("p") if isinstance(order, StartPrefill)]
    head.say("p", PrefillStarted(rid, 1, 0))
    head.say("p", BlocksCached(request.block_hashes, (5, 6, 7, 8)))
    if number % 5 == 0:
        head.tell_gone(rid)
        head.say("p", Dropped(rid, 1))
        head.say("d", Dropped(rid, 1))
    else:
        block_ids = (*start.borrowed.values(), 5, 6, 7, 8)[:4]
        head.say("p", PrefillDone(rid, 1, block_ids, 16), output=(77,))
        head.say("d", DecodeStarted(rid, 1))
        head.say("d", Finished(rid, 1, FinishReason.LENGTH))
    head.say("p", BlocksEvicted(request.block_hashes))
    head.arrive(make_request(f"long{number}", 2000))
    head.now_s += 0.01
    head.sent.clear()
    head.reports.clear()


def alive() -> Counter[type]:
    """What is kept of requests anywhere."""
    gc.collect()
    return Counter(type(it) for it in gc.get_objects() if isinstance(it, Job | Attempt | Lease))


def test_what_has_ended_leaves_nothing() -> None:
    before = alive()
    head = Head(LimitsSpec(heartbeat_timeout_s=1e9))
    head.join(make_info("p", Role.PREFILL))
    head.join(make_info("d", Role.DECODE, start=100))
    for number in range(700):
        serve(head, number)
    assert head.core.snapshot().idle
    assert alive() == before
    assert len(head.core._timers) <= STALE_ENTRIES + 8
    assert head.core._index.owners() == () and len(head.core._index) == 0
    assert sum(head.core.snapshot().ended.values()) == 1400


def test_a_prompt_is_shared_not_copied_and_may_be_any_sequence() -> None:
    """A simulated prompt is a range: its tokens do not exist."""
    head = Head()
    head.join(make_info("m", Role.MIXED, blocks=300))
    request = make_request("r", 900)
    head.arrive(request)
    assert head.take_one("m", StartPrefill).work.token_ids is request.prompt_token_ids


def test_blocked_requests_are_not_tried_again_before_something_changes() -> None:
    head = Head(LimitsSpec(prefill_backlog_tokens=1))
    head.join(make_info("m", Role.MIXED))
    router = head.core._placing._router
    for number in range(50):
        head.arrive(make_request(f"r{number}", 10))
    assert router.looks == 2, "one has a place, the next one is blocked, the others stand behind it"
    head.say("m", PrefillStarted(RequestId("r0"), 1, 0))
    head.wait(1.0)
    assert router.looks == 2
    head.say("m", DecodeStarted(RequestId("r0"), 1))
    assert router.looks == 4, "the prompt is done: the next one has a place, and one is blocked"
    head.lose("m", **{f"r{number}": () for number in range(50)})
    tried = router.looks
    for number in range(50, 60):
        head.arrive(make_request(f"r{number}", 10))
    assert router.looks == tried, "nobody lives: there is nothing to try"
    assert head.core.snapshot().worker(WorkerId("m")).usable is False
