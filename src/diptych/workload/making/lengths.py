"""How long prompts and outputs are.

Knows: distributions of whole numbers of tokens. Does not know: requests. All draw from a generator that is
passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log, sqrt
from random import Random

from diptych.domain.errors import SpecError
from diptych.workload.lines import MAX_TOKENS

Lengths = Callable[[Random], int]
"""Draws one length, tokens."""
Z90 = 1.2815515655446004
"""90th percentile of the standard normal distribution."""


def constant(tokens: int) -> Lengths:
    """Always the same."""
    _possible("tokens", tokens)
    return lambda _: tokens


def uniform(least: int, most: int) -> Lengths:
    """Every whole number from ``least`` to ``most`` alike."""
    _possible("min", least)
    _possible("max", most)
    if most < least:
        raise SpecError(f"max: {most} is below min ({least})")
    return lambda rng: rng.randint(least, most)


def lognormal(median: float, sigma: float, *, least: int = 1, most: int = MAX_TOKENS) -> Lengths:
    """Log-normal, cut off at both ends: what falls outside becomes the nearest end."""
    _possible("median", median)
    if not 0 <= sigma < 20:
        raise SpecError(f"sigma: {sigma:g} is not possible; 0 to 20")
    _possible("min", least)
    if most < least:
        raise SpecError(f"max: {most} is below min ({least})")
    mu = log(median)
    return lambda rng: min(most, max(least, round(exp(rng.normalvariate(mu, sigma)))))


def sigma_from_p90(median: float, p90: float) -> float:
    """Width of a log-normal whose 90th percentile is ``p90``."""
    if not 0 < median <= p90:
        raise SpecError(f"p90: {p90:g} is below the median ({median:g})")
    return log(p90 / median) / Z90


def sigma_from_mean(median: float, mean: float) -> float:
    """Width of a log-normal whose mean (before it is cut off) is ``mean``."""
    if not 0 < median <= mean:
        raise SpecError(f"mean: {mean:g} is below the median ({median:g}); a log-normal leans to the right")
    return sqrt(2 * log(mean / median))


def empirical(values: Sequence[int]) -> Lengths:
    """One of these values, each alike."""
    if not values:
        raise SpecError("empirical: no values to draw from")
    return lambda rng: values[int(rng.random() * len(values))]


def _possible(name: str, value: float) -> None:
    if not 1 <= value <= MAX_TOKENS:
        raise SpecError(f"{name}: {value:g} is not possible; 1 to {MAX_TOKENS:,} tokens")
