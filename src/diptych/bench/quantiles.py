"""Percentiles with intervals, in plain Python.

Knows: order statistics and two bootstraps. Does not know: what is measured.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import floor
from statistics import fmean
from typing import Any, Literal

RESAMPLES = 400
"""Of one bootstrap: an interval's end is then the 10th value from the edge, which is steady enough to
print."""
CONFIDENCE = 0.95
P99_REQUESTS = 1000
"""Below this many requests a p99 is one of the ten largest values and is not shown. Source: MLPerf's rules
ask
for far more (270,336 at 99 % confidence); this project's benchmark definitions, November 2026."""
SHOWN = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))

Interval = tuple[float, float]


@dataclass(frozen=True)
class Distribution:
    """Percentiles of one metric. ``None`` where there is nothing to say, and then ``reason`` says why."""

    of: Literal["requests", "gaps"]
    count: int
    """Values."""
    requests: int
    """Requests that they come from."""
    mean: float | None
    percentiles: dict[str, float | None]
    intervals: dict[str, Interval | None]
    reason: str | None = None

    def as_data(self) -> dict[str, Any]:
        """Flat, as it is printed: p50, p90, p99, mean, count and the intervals."""
        ends = {f"{name}_interval": list(ends) if ends else None for name, ends in self.intervals.items()}
        shown: dict[str, Any] = {**self.percentiles, "mean": self.mean, "of": self.of}
        shown |= {"count": self.count, "requests": self.requests, **ends}
        if self.reason is not None:
            shown["p99_reason"] = self.reason
        return shown


def quantile(ordered: Sequence[float], share: float) -> float:
    """Linear interpolation between order statistics, as numpy's default. ``ordered`` rises, is not empty."""
    place = share * (len(ordered) - 1)
    low = floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def of_requests(values: Sequence[float], seed: int) -> Distribution:
    """One value a request: requests are resampled."""
    ordered = sorted(values)
    chooser = random.Random(f"bootstrap/{seed}")
    intervals = {
        name: _interval(resampled_quantiles(ordered, share, chooser)) if len(ordered) > 1 else None
        for name, share in SHOWN
    }
    return _distribution("requests", ordered, len(ordered), intervals)


def of_gaps(groups: Sequence[Sequence[float]], seed: int) -> Distribution:
    """Many values a request, which resemble each other: requests are resampled, their gaps together."""
    groups = [group for group in groups if group]
    ordered = sorted(chain.from_iterable(groups))
    chooser = random.Random(f"bootstrap/{seed}")
    intervals = {
        name: _grouped_interval(groups, ordered, share, chooser) if len(groups) > 1 else None
        for name, share in SHOWN
    }
    return _distribution("gaps", ordered, len(groups), intervals)


def resampled_quantiles(ordered: Sequence[float], share: float, chooser: random.Random) -> list[float]:
    """The quantile of `RESAMPLES` resamples, without drawing them.

    The j-th smallest of n uniform draws is Beta(j, n + 1 - j), and the next one's distance to 1 shrinks by a
    Beta(n - j, 1) factor: two draws stand for a whole resample. Source: David and Nagaraja, Order
    Statistics, 2003, §2.3 and §2.5.
    """
    count = len(ordered)
    place = share * (count - 1)
    rank, part = floor(place) + 1, place - floor(place)
    found: list[float] = []
    for _ in range(RESAMPLES):
        low = chooser.betavariate(rank, count + 1 - rank)
        high = low if rank == count else 1 - (1 - low) * chooser.betavariate(count - rank, 1)
        below, above = (ordered[min(int(at * count), count - 1)] for at in (low, high))
        found.append(below + (above - below) * part)
    return sorted(found)


def _grouped_interval(
    groups: Sequence[Sequence[float]], ordered: Sequence[float], share: float, chooser: random.Random
) -> Interval:
    """Resample the share of values up to the quantile, then read its ends off the pooled values (Woodruff,
    JASA 1952): no resample needs to be pooled and sorted."""
    cut = quantile(ordered, share)
    counts = [(sum(value <= cut for value in group), len(group)) for group in groups]
    shares: list[float] = []
    for _ in range(RESAMPLES):
        drawn = chooser.choices(counts, k=len(counts))
        shares.append(sum(below for below, _ in drawn) / sum(size for _, size in drawn))
    low, high = _interval(sorted(shares))
    at_cut = bisect_right(ordered, cut) / len(ordered)
    return tuple(quantile(ordered, min(1.0, max(0.0, share + end - at_cut))) for end in (low, high))  # type: ignore[return-value]


def _interval(ordered: Sequence[float]) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    return quantile(ordered, tail), quantile(ordered, 1 - tail)


def _distribution(
    of: Literal["requests", "gaps"],
    ordered: Sequence[float],
    requests: int,
    intervals: dict[str, Interval | None],
) -> Distribution:
    percentiles: dict[str, float | None] = {
        name: quantile(ordered, share) if ordered else None for name, share in SHOWN
    }
    reason = None
    if requests < P99_REQUESTS:
        reason = f"p99 needs {P99_REQUESTS:,} requests, there are {requests:,}"
        percentiles["p99"] = intervals["p99"] = None
    mean = fmean(ordered) if ordered else None
    return Distribution(of, len(ordered), requests, mean, percentiles, intervals, reason)
