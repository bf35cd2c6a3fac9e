"""Placements as data: what is kept, sent and told."""

from __future__ import annotations

import msgspec

from diptych.domain.events import BlocksCached
from diptych.domain.report import Placement
from diptych.domain.worker import Role
from diptych.orchestration.explain import candidates, told
from support.head import Head, make_info, make_request


def placed() -> Placement:
    """One with a mixed worker, a split over both domains, hits, and workers that can not take it."""
    head = Head()
    for number, (name, role, domain) in enumerate(
        [
            ("p1", Role.PREFILL, "here"),
            ("d1", Role.DECODE, "here"),
            ("d2", Role.DECODE, "there"),
            ("m1", Role.MIXED, "here"),
        ]
    ):
        blocks = 2 if name == "m1" else 100
        head.join(make_info(name, role, start=100 * number, blocks=blocks, domain=domain))
    request = make_request("r", 12)
    head.say("d1", BlocksCached(request.block_hashes[:2], (100, 101)))
    head.arrive(request)
    head.tell_gone("r")
    return head.reports["r"].placements[0]


def test_a_placement_goes_through_a_journal_and_says_the_same() -> None:
    placement = placed()
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(placement), type=Placement)
    assert again == placement and candidates(again) == candidates(placement)


def test_every_pair_is_told_with_its_scores_or_its_reason() -> None:
    (one,) = told([placed()])
    listed = list(one["candidates"])
    by_pair = {(it["prefill_worker"], it["decode_worker"]): it for it in listed}
    assert list(by_pair) == sorted(by_pair)
    assert set(by_pair) == {
        ("p1", "d1"),
        ("p1", "d2"),
        ("p1", "p1"),
        ("d1", "d1"),
        ("d2", "d2"),
        ("m1", "m1"),
    }
    assert by_pair["m1", "m1"]["rejected"] == "arena: 4 blocks needed, 2 exist"
    chosen = by_pair[one["prefill_worker"], one["decode_worker"]]
    assert f"with {chosen['total']:.3f}" in str(one["reason"]) and "best of 2" in str(one["reason"])
    assert chosen["total"] == max(it["total"] for it in listed)
    for pair in (("p1", "d1"), ("p1", "d2")):
        assert by_pair[pair]["rejected"] is None and by_pair[pair]["cached_tokens"] == 8
        assert set(by_pair[pair]["scores"]) == {"ttft", "tpot", "room", "local"}
