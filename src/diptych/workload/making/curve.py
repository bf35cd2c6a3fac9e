"""A rate that changes over time, piecewise linear, with its integral and the inverse of that.

Knows: arithmetic. Does not know: what arrives.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from math import isfinite, sqrt

from diptych.domain.errors import SpecError


class RateCurve:
    """Rates (1/s) at instants (s), linear between them, constant after the last; the first is at 0 s."""

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        _check(points)
        self._times_s = [t_s for t_s, _ in points]
        self._rates = [rate for _, rate in points]
        self._areas = [0.0]
        for (t0, r0), (t1, r1) in pairwise(points):
            self._areas.append(self._areas[-1] + (t1 - t0) * (r0 + r1) / 2)

    def area(self, t_s: float) -> float:
        """What is expected to have come by ``t_s``: the integral from 0."""
        place = max(0, bisect_right(self._times_s, t_s) - 1)
        past_s = t_s - self._times_s[place]
        return self._areas[place] + past_s * (self._rates[place] + self._slope(place) * past_s / 2)

    def when(self, area: float) -> float | None:
        """The instant at which the integral reaches ``area``; None if it never does."""
        place = max(0, bisect_right(self._areas, area) - 1)
        rate, slope, missing = self._rates[place], self._slope(place), area - self._areas[place]
        if missing <= 0:
            return self._times_s[place] if rate or slope else None
        root = sqrt(max(0.0, rate * rate + 2 * slope * missing))
        if rate + root <= 0:
            return None
        return self._times_s[place] + 2 * missing / (rate + root)

    def _slope(self, place: int) -> float:
        if place + 1 == len(self._times_s):
            return 0.0
        rise = self._rates[place + 1] - self._rates[place]
        return rise / (self._times_s[place + 1] - self._times_s[place])


def _check(points: Sequence[tuple[float, float]]) -> None:
    if not points or points[0][0] != 0:
        raise SpecError("points: the first one is at 0 s, such as 0:2;60:8")
    for t_s, rate in points:
        if not (isfinite(t_s) and isfinite(rate)) or rate < 0:
            raise SpecError(f"points: {t_s:g}:{rate:g} is not an instant with a rate of at least 0")
    for (before_s, _), (after_s, _) in pairwise(points):
        if after_s <= before_s:
            raise SpecError(f"points: {after_s:g} s comes after {before_s:g} s; give them in rising order")
