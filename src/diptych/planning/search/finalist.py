"""A candidate that was simulated: goodput over seeds, and what that is per chip, watt and dollar.

Knows: means, confidence intervals, sums over all hardware. Does not know: how candidates were found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt
from statistics import fmean, stdev

from diptych.domain.errors import SpecError
from diptych.planning.search.candidate import Candidate
from diptych.planning.search.goodput import Goodput, Probe
from diptych.planning.search.targets import BudgetUnit

STUDENT_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""97.5th percentile of Student's t by degrees of freedom; beyond the table the normal's 1.96 is used + 10
%."""


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % confidence interval; with one sample the interval is unknown."""

    mean: float
    low: float | None = None
    high: float | None = None
    samples: int = 1


def interval(values: Sequence[float]) -> Interval:
    """Student's t over independent seeds."""
    mean = fmean(values)
    if len(values) < 2:
        return Interval(mean)
    half = STUDENT_95.get(len(values) - 1, 2.16) * stdev(values) / sqrt(len(values))
    return Interval(mean, mean - half, mean + half, len(values))


@dataclass
class Finalist:
    """What simulation said of one candidate."""

    candidate: Candidate
    by_seed: dict[int, Goodput] = field(default_factory=dict)

    @property
    def goodput(self) -> Interval:
        """Requests per second within the targets, over the seeds."""
        return interval([found.rate_rps for _, found in sorted(self.by_seed.items())])

    @property
    def rate_rps(self) -> float:
        """Its mean."""
        return self.goodput.mean

    @property
    def at(self) -> Probe | None:
        """The first seed's probe just below its goodput."""
        found = next((found for _, found in sorted(self.by_seed.items())), None)
        return None if found is None else found.at

    @property
    def above(self) -> Probe | None:
        """The first seed's lowest probe that misses: it shows what gives way."""
        found = next((found for _, found in sorted(self.by_seed.items())), None)
        missed = [it for it in found.probes if it.attainment < found_share(found)] if found else []
        return min(missed, key=lambda it: it.rate_rps, default=None)

    @property
    def settled(self) -> bool:
        """Whether every run was long enough; else the goodput is an upper bound."""
        return all(probe.settled for found in self.by_seed.values() for probe in found.probes)

    @property
    def binds(self) -> str:
        """The resource that gives way just above the goodput; by closed forms if nothing was missed."""
        probe = self.above
        return self.candidate.estimate.binds if probe is None else binding(probe)

    @property
    def ratio_to_estimate(self) -> float:
        """Simulated over estimated: what scales the closed forms where nothing is simulated. 0 for
        what serves nothing there."""
        estimate = self.candidate.estimate.rate_rps
        return self.rate_rps / estimate if estimate > 0 else 1.0

    def per(self, unit: BudgetUnit) -> float | None:
        """Goodput over all of the candidate's hardware in ``unit``; None where a part's figure is unknown."""
        amount = self.candidate.amount(unit)
        return None if not amount else self.rate_rps / amount


def found_share(found: Goodput) -> float:
    """The least attainment that counted as good in a search."""
    reached = [it.attainment for it in found.probes if found.at and it.rate_rps <= found.at.rate_rps]
    return min(reached, default=1.0 + 1e-9)


def binding(probe: Probe) -> str:
    """What the misses of one simulation come from: the phase that is late, and what it waits for there."""
    effects = probe.effects
    if probe.ttft_missed >= probe.tpot_missed:
        return "decode KV" if memory_full(probe) else "prefill FLOP"
    if effects.handoff_s > max(LINK_NOTICED_S, effects.prefill_s / 2):
        return "link"
    return "decode bandwidth"


def memory_full(probe: Probe) -> bool:
    """Whether a pool that decodes was at its fullest too full for a large request."""
    peaks = [share for name, share in probe.kv_peak.items() if not name.startswith("prefill")]
    return max(peaks, default=0.0) >= 1.0 - probe.large_share


LINK_NOTICED_S = 0.05
"""A handoff that is exposed for longer is no longer the fixed residual of layer-wise sending."""


def paired_ratio(one: Finalist, other: Finalist) -> Interval | None:
    """``one`` over ``other`` on the same draws; None if there are none in common, or the other serves
    nothing."""
    seeds = sorted(one.by_seed.keys() & other.by_seed.keys())
    below = [other.by_seed[seed].rate_rps for seed in seeds]
    if not seeds or min(below) <= 0:
        return None
    return interval([one.by_seed[seed].rate_rps / rate for seed, rate in zip(seeds, below, strict=True)])


def gain(
    one: Finalist, other: Finalist, unit: BudgetUnit, counted: Sequence[str] | None = None
) -> float | None:
    """Goodput per ``unit`` of ``one`` over that of ``other``, all hardware counted on both sides.

    ``counted`` names the chips that the caller wants in the denominator. Raises `SpecError` if a chip of
    either candidate is missing there: leaving hardware out is how most large gains are made."""
    if counted is not None:
        used = sorted({pool.engine.chip for it in (one, other) for pool in it.candidate.pools})
        omitted = [chip for chip in used if chip not in counted]
        if omitted:
            raise SpecError(
                f"a gain per {unit} that leaves out {', '.join(omitted)} is refused: the denominator counts "
                f"all hardware that serves ({', '.join(used)})"
            )
    mine, theirs = one.per(unit), other.per(unit)
    return None if mine is None or not theirs else mine / theirs
