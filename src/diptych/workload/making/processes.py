"""When requests arrive: endless streams of instants, in seconds from the start.

Knows: arrival processes. Does not know: requests. All draw from a generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from diptych.domain.errors import SpecError
from diptych.workload.making.curve import RateCurve


def poisson(rate_rps: float, rng: Random) -> Iterator[float]:
    """Independent arrivals: exponential gaps of mean 1 / ``rate_rps``."""
    positive("rate", rate_rps)
    t_s = 0.0
    while True:
        t_s += rng.expovariate(rate_rps)
        yield t_s


def gamma(rate_rps: float, cv: float, rng: Random) -> Iterator[float]:
    """Gamma-distributed gaps with this coefficient of variation: below 1 regular, above 1 bursty."""
    positive("rate", rate_rps)
    positive("cv", cv)
    shape = 1 / cv**2
    scale_s = 1 / (rate_rps * shape)
    t_s = 0.0
    while True:
        t_s += rng.gammavariate(shape, scale_s)
        yield t_s


def constant(rate_rps: float) -> Iterator[float]:
    """One request every 1 / ``rate_rps`` seconds, the first at 0."""
    positive("rate", rate_rps)
    count = 0
    while True:
        yield count / rate_rps
        count += 1


def bursts(rate_rps: float, on_s: float, off_s: float, rng: Random) -> Iterator[float]:
    """Poisson arrivals while on, none while off; both last exponential times of these means.

    ``rate_rps`` is the mean over both, so the rate while on is rate · (on + off) / on.
    """
    positive("rate", rate_rps)
    positive("on_s", on_s)
    positive("off_s", off_s)
    rate_on_rps = rate_rps * (on_s + off_s) / on_s
    begin_s = 0.0
    while True:
        end_s = begin_s + rng.expovariate(1 / on_s)
        t_s = begin_s + rng.expovariate(rate_on_rps)
        while t_s < end_s:
            yield t_s
            t_s += rng.expovariate(rate_on_rps)
        begin_s = end_s + rng.expovariate(1 / off_s)


def ramp(curve: RateCurve, rng: Random) -> Iterator[float]:
    """Poisson arrivals whose rate follows a curve: unit-rate arrivals through the curve's inverse integral.

    Ends when the curve stays at 0 and no further request can come.
    """
    expected = 0.0
    while True:
        expected += rng.expovariate(1.0)
        t_s = curve.when(expected)
        if t_s is None:
            return
        yield t_s


def at_once() -> Iterator[float]:
    """Everything at 0 s."""
    while True:
        yield 0.0


def positive(name: str, value: float) -> None:
    """Raises `SpecError` unless ``value`` is a positive, finite number."""
    if not 0 < value < float("inf"):
        raise SpecError(f"{name}: {value:g} is not possible; a number above 0")
