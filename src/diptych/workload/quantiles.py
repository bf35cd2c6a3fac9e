"""Quantiles of whole numbers and of small samples.

Knows: counting and linear interpolation between order statistics. Does not know: what is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Whole numbers in brief, in their own unit."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: int


class Histogram:
    """Counts whole numbers exactly: memory grows with distinct values and not with how many there are."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._sum = 0
        self._n = 0

    def add(self, value: int) -> None:
        """One more."""
        self._counts[value] += 1
        self._sum += value
        self._n += 1

    def spread(self) -> Spread:
        """In brief; zeros if nothing was counted."""
        if not self._n:
            return Spread(0.0, 0.0, 0.0, 0.0, 0)
        p50, p90, p99 = (self.quantile(share) for share in (0.5, 0.9, 0.99))
        return Spread(self._sum / self._n, p50, p90, p99, max(self._counts))

    def quantile(self, share: float) -> float:
        """The value below which this share lies, interpolated linearly as numpy does by default."""
        place = share * (self._n - 1)
        low = self._at(int(place))
        return low + (place - int(place)) * (self._at(min(int(place) + 1, self._n - 1)) - low)

    def cumulative(self) -> list[tuple[int, float]]:
        """Each value with the share of numbers that are not above it."""
        total, points = 0, list[tuple[int, float]]()
        for value in sorted(self._counts):
            total += self._counts[value]
            points.append((value, total / self._n))
        return points

    def _at(self, place: int) -> int:
        passed = 0
        for value in sorted(self._counts):
            passed += self._counts[value]
            if passed > place:
                return value
        raise IndexError(place)


def quantile(values: Sequence[float], share: float) -> float:
    """The same for a sample that is held whole. ``values`` need not be sorted, but not be empty."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
