"""Several workloads in one, with shares that may change over time.

Knows: how to stretch each part's own time so that it has its share of all requests, whatever its bursts. Does
not know: what the parts are.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import gcd

from diptych.domain.errors import SpecError
from diptych.workload.blocks import reblocked
from diptych.workload.making.curve import RateCurve
from diptych.workload.record import Arrival, Workload
from diptych.workload.transform import Extent, extent, own, replace, rounds


@dataclass(frozen=True)
class Part:
    """A workload with its share of requests, before and after a shift. Shares count among their sum."""

    workload: Workload
    share: float
    share_after: float | None = None
    """None: as before."""


@dataclass(frozen=True)
class Shift:
    """When shares change, linearly from the ones to the others."""

    from_s: float
    to_s: float


def mix(
    parts: Sequence[Part],
    *,
    rate_rps: float | None = None,
    requests: int | None = None,
    shift: Shift | None = None,
) -> Workload:
    """Merges the parts by time. Ids and sessions of different parts never meet; blocks are cut to a common
    size.

    ``rate_rps``: of all together; None: the sum of the parts' own. ``requests``: None: as many as all parts
    have. A part that ends sooner begins anew. Reads each part once beforehand.
    """
    _check(parts, rate_rps, requests, shift)
    extents = [extent(part.workload) for part in parts]
    for part, found in zip(parts, extents, strict=True):
        if not found.rate_rps:
            raise SpecError(
                f"{part.workload.name}: all its requests come at once; give it times before mixing"
            )
    total_rps = sum(found.rate_rps for found in extents) if rate_rps is None else rate_rps
    wanted = sum(found.requests for found in extents) if requests is None else requests
    block_tokens = gcd(*(part.workload.block_tokens for part in parts))
    curves = _curves(parts, total_rps, shift)
    alike = [reblocked(part.workload, block_tokens) for part in parts]

    def arrivals() -> Iterator[Arrival]:
        streams = [
            _stretched(workload, found, curve, place)
            for place, (workload, found, curve) in enumerate(zip(alike, extents, curves, strict=True))
        ]
        return islice(heapq.merge(*streams, key=lambda arrival: arrival.t_s), wanted)

    name = " + ".join(f"{part.share:g} {part.workload.name}" for part in parts)
    notes = tuple(f"{part.workload.name}: {note}" for part in parts for note in part.workload.notes)
    said = f"mixed at {total_rps:g} requests/s"
    return Workload(name, arrivals, block_tokens, wanted, (*notes, said))


def _stretched(workload: Workload, found: Extent, curve: RateCurve, place: int) -> Iterator[Arrival]:
    """One part on the mix's time: when by its curve as many requests are due as its own rate gives."""
    for arrival in rounds(workload, found.period_s):
        due = (arrival.t_s - found.first_s) * found.rate_rps
        t_s = curve.when(due)
        if t_s is None:
            return
        yield _named(replace(arrival, t_s=t_s), place)


def _named(arrival: Arrival, place: int) -> Arrival:
    """Rounds already took multiples of the mixer: between them, a part has its own place."""
    moved = own(arrival, place << 40)
    session = None if arrival.session_id is None else f"{place}/{arrival.session_id}"
    return replace(moved, session_id=session)


def _curves(parts: Sequence[Part], total_rps: float, shift: Shift | None) -> list[RateCurve]:
    before = _rates([part.share for part in parts], total_rps)
    if shift is None:
        return [RateCurve([(0.0, rate)]) for rate in before]
    later = [part.share if part.share_after is None else part.share_after for part in parts]
    after = _rates(later, total_rps)
    return [RateCurve(_points(first, last, shift)) for first, last in zip(before, after, strict=True)]


def _points(first: float, last: float, shift: Shift) -> list[tuple[float, float]]:
    start = [(0.0, first)] if shift.from_s > 0 else []
    return [*start, (shift.from_s, first), (shift.to_s, last)]


def _rates(shares: Sequence[float], total_rps: float) -> list[float]:
    return [share / sum(shares) * total_rps for share in shares]


def _check(parts: Sequence[Part], rate_rps: float | None, requests: int | None, shift: Shift | None) -> None:
    if not parts:
        raise SpecError("mix: names no workload; at least one with its share")
    for name, pick in _SIDES.items():
        shares = [pick(part) for part in parts]
        if any(not 0 <= share < float("inf") for share in shares) or sum(shares) <= 0:
            raise SpecError(
                f"{name}: {', '.join(f'{share:g}' for share in shares)}; none negative, one above 0"
            )
    if shift is None and any(part.share_after is not None for part in parts):
        raise SpecError("share: changes, but it is not said when; give the shift's begin and end")
    if shift is not None and not 0 <= shift.from_s < shift.to_s:
        raise SpecError(f"shift: from {shift.from_s:g} s to {shift.to_s:g} s; its end comes after its begin")
    if rate_rps is not None and not 0 < rate_rps < float("inf"):
        raise SpecError(f"rate: {rate_rps:g} is not possible; a number above 0")
    if requests is not None and requests < 1:
        raise SpecError(f"requests: {requests} is not possible; at least 1")


_SIDES: dict[str, Callable[[Part], float]] = {
    "share": lambda part: part.share,
    "share after": lambda part: part.share if part.share_after is None else part.share_after,
}
