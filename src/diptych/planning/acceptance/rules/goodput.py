"""The highest rate at which 90 % of requests stay within both limits, by bisection.

Knows: the search of the tests (to 0.02 req/s per chip, mean of two seeds). Does not know: who serves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from diptych.planning.acceptance.rules.requests import Served

Gap = Literal["mean", "worst"]
Attained = Callable[[float, int], float]
"""(rate in req/s, seed) → share of requests within both limits."""

SEEDS = (1, 2)
WANTED = 0.90
RESOLUTION = 0.02
HIGHEST_PER_CHIP = 8.0
"""Where bisection starts; no configuration of these tests reaches half of it."""


def attainment(served: Sequence[Served], ttft_s: float, gap_s: float, gap: Gap = "mean") -> float:
    """Share of requests within both limits."""
    met = 0
    for it in served:
        value_s = it.mean_gap_s if gap == "mean" else it.worst_gap_s
        met += it.ttft_s <= ttft_s and (value_s is None or value_s <= gap_s)
    return met / len(served)


def goodput_per_chip(
    attained: Attained, chips: int, *, beat: float = 0.0, seeds: Sequence[int] = SEEDS
) -> float:
    """Mean over the seeds of the highest rate per chip. Where no seed holds at ``beat``, the mean can't be
    above
    it: then 0 is returned at once."""
    if beat > 0 and all(attained(beat * chips, seed) < WANTED for seed in seeds):
        return 0.0
    return sum(highest(lambda rate, it=seed: attained(rate * chips, it) >= WANTED) for seed in seeds) / len(
        seeds
    )


def highest(
    holds: Callable[[float], bool], high: float = HIGHEST_PER_CHIP, resolution: float = RESOLUTION
) -> float:
    """The largest rate that ``holds``, to ``resolution``, taking it to hold below."""
    low = 0.0
    while high - low > resolution:
        middle = (low + high) / 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low
