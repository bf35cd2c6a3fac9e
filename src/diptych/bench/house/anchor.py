"""How fast is the cluster in service now, compared with what its profile says?

Single steps on an idle cluster are faster than the same steps in service: there caches are cold, cores come
out of
a rest, and the head works beside them. And where a machine is shared, its speed drifts within minutes. So a
short load is run, and the profile is asked about each of its steps.

Knows: one load, its steps, what a profile says of them. Does not know: other loads, simulations of this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, quantiles
from typing import NamedTuple

from diptych.bench.house.ask import House
from diptych.bench.house.company import Company
from diptych.bench.house.contention import with_contention
from diptych.bench.house.loads import Lengths, poisson
from diptych.bench.house.profiles import with_profiles
from diptych.bench.house.rows import Served, with_rows
from diptych.bench.house.steps import Step, StepWatch
from diptych.domain.cluster import ClusterSpec
from diptych.domain.fleet import DecodeFit, PrefillFit, ProfileSpec
from diptych.domain.ids import WorkerId
from diptych.performance.steps import FittedSteps

LOAD = 0.7
"""Of the rate at which the busiest pool has no rest: batches should be as large as they are in the loads that
matter."""

ANCHOR_S = 5.0
"""About how long a look takes."""

SEED = 1_000
"""Of the first look's arrivals, and one more for each that follows: not those of any load that is
compared."""

LEAST_REQUESTS = 8

LEAST_LOOKS = 6
"""Fewer do not show how far the machine drifts."""

MOST = 3.0
"""A factor beyond this, or below its inverse, is a broken measurement."""


class Drift(NamedTuple):
    """Real over profile: seconds of steps that prefill, of those that only decode."""

    prefill: float
    decode: float


class Anchor:
    """One load that is run again and again, with other lengths each time: what a profile says of a single
    length may be far off (a few prompts in a row would then all say the same wrong thing), what it says of
    many is not. ``most_rps``: the rate that saturates the cluster."""

    def __init__(self, house: House, watch: StepWatch, lengths: Lengths, most_rps: float) -> None:
        self._house = house
        self._watch = watch
        self._lengths = lengths
        self._rate_rps = LOAD * most_rps
        self._requests = max(LEAST_REQUESTS, int(self._rate_rps * ANCHOR_S))
        self._runs = 0

    async def run(self) -> list[Step]:
        """Run it once on the idle cluster."""
        workload = poisson(self._rate_rps, self._requests, self._lengths, SEED + self._runs)
        self._runs += 1
        self._watch.take()
        await self._house.run(workload)
        return self._watch.take()

    @property
    def service(self) -> Service:
        """How to read its steps."""
        return Service(
            {share.worker_id: share.pool.name for share in self._house.cluster.shares},
            (sum(self._lengths.prompt) + sum(self._lengths.output) // 2) // 2,
        )


class Service(NamedTuple):
    """Whose steps they are: ``pools`` of the workers. ``context_tokens``: of a sequence that decodes, on
    average."""

    pools: Mapping[WorkerId, str]
    context_tokens: int

    def profiled(self, spec: ClusterSpec, steps: Sequence[Step]) -> ClusterSpec:
        """``spec`` as these steps show it: speed, rows of its tables, what its workers cost each other."""
        scaled = self._scaled(spec, steps)
        served = self._served(scaled, steps)
        return self._scaled(
            with_profiles(scaled, lambda pool, before: with_rows(before, served[pool.name])), steps
        )

    def _scaled(self, spec: ClusterSpec, steps: Sequence[Step]) -> ClusterSpec:
        beside = with_contention(spec, steps, self.pools, self.context_tokens)
        return drifted(beside, self.drift(beside, steps))

    def drift(self, spec: ClusterSpec, steps: Sequence[Step]) -> Drift:
        """How many times as long as ``spec`` says these steps took."""
        served = self._served(spec, steps)
        prefill, decode = _Ratio(), _Ratio()
        for pool in spec.pools:
            if pool.profile is not None:
                model = FittedSteps(pool.profile)
                for step in served[pool.name]:
                    (prefill if step.prefill_tokens else decode).add(step.taken_s, step.expected_s(model))
        return Drift(prefill.value, decode.value)

    def _served(self, spec: ClusterSpec, steps: Sequence[Step]) -> dict[str, list[Served]]:
        """Steps of each pool that has a profile, without what company cost them."""
        factors = {
            pool.name: pool.profile.contended_factor for pool in spec.pools if pool.profile is not None
        }
        found: dict[str, list[Served]] = {name: [] for name in factors}
        for worker, name in self.pools.items():
            if name in factors:
                company = Company([step for step in steps if step.worker_id != worker])
                own = [step for step in steps if step.worker_id == worker]
                found[name] += [self._alone(step, company.share(step), factors[name]) for step in own]
        return found

    def _alone(self, step: Step, share: float, factor: float) -> Served:
        """``share`` of it in company that costs ``factor``."""
        context_tokens = step.decode_tokens * self.context_tokens
        taken_s = step.taken_s * (1 - share + share / factor)
        return Served(step.moment, step.chunks, step.decode_tokens, context_tokens, taken_s)


class _Ratio:
    """Taken over expected, within `MOST`; 1 without any."""

    def __init__(self) -> None:
        self._taken_s = self._expected_s = 0.0

    def add(self, taken_s: float, expected_s: float) -> None:
        self._taken_s += taken_s
        self._expected_s += expected_s

    @property
    def value(self) -> float:
        factor = self._taken_s / self._expected_s if self._expected_s > 0 else 1.0
        return min(MOST, max(1 / MOST, factor))


def mean_of(looks: Sequence[Drift]) -> Drift:
    """Of one or more."""
    return Drift(fmean(it.prefill for it in looks), fmean(it.decode for it in looks))


def spread(looks: Sequence[Drift]) -> tuple[Drift, Drift]:
    """The bounds of the middle four fifths of two or more looks: how steady the machine was."""
    prefill, decode = (quantiles(factors, n=10, method="inclusive") for factors in zip(*looks, strict=True))
    return Drift(prefill[0], decode[0]), Drift(prefill[-1], decode[-1])


def speeds(looks: Sequence[Drift]) -> list[tuple[Drift, ...]]:
    """What the machine's speed may have been between each look and the next: so many looks on both sides,
    each as likely as the others, as foretell the looks best from their own neighbours. Where the machine
    keeps its speed, those are all looks, each off by some hundredths; where it drifts, only the nearest say
    anything. Where it jumps, a load ran at the one speed or at the other, and hardly ever at their mean."""
    reach = _reach(looks)
    starts = (min(max(0, i + 1 - reach), len(looks) - 2 * reach) for i in range(len(looks) - 1))
    return [tuple(looks[start : start + 2 * reach]) for start in starts]


def _reach(looks: Sequence[Drift]) -> int:
    """How many looks on each side; squares of what they miss of the one in their middle decide."""
    if len(looks) < LEAST_LOOKS:
        return 1
    reaches = [2**power for power in range((len(looks) // 2).bit_length())]
    return min(reaches, key=lambda reach: _missed(looks, reach))


def _missed(looks: Sequence[Drift], reach: int) -> float:
    total = 0.0
    for i, look in enumerate(looks):
        foretold = mean_of([*looks[max(0, i - reach) : i], *looks[i + 1 : i + 1 + reach]])
        total += (look.prefill / foretold.prefill - 1) ** 2 + (look.decode / foretold.decode - 1) ** 2
    return total


def drifted(spec: ClusterSpec, drift: Drift) -> ClusterSpec:
    """``spec`` on the machine as it was."""
    return with_profiles(spec, lambda _, before: scaled(before, drift))


def scaled(profile: ProfileSpec, drift: Drift) -> ProfileSpec:
    """``profile`` with steps so many times as long."""
    prefill, decode = drift
    fit = profile.prefill
    return profile.model_copy(
        update={
            "prefill": PrefillFit(
                fixed_s=fit.fixed_s * prefill,
                per_token_s=fit.per_token_s * prefill,
                per_token2_s=fit.per_token2_s * prefill,
                by_tokens=_rows(fit.by_tokens, prefill),
            ),
            "decode": tuple(
                DecodeFit(
                    fixed_s=it.fixed_s * decode,
                    per_context_token_s=it.per_context_token_s * decode,
                    per_sequence_s=it.per_sequence_s * decode,
                    by_batch=_rows(it.by_batch, decode),
                    from_batch=it.from_batch,
                )
                for it in profile.decode
            ),
        }
    )


def _rows(rows: tuple[tuple[int, float], ...], factor: float) -> tuple[tuple[int, float], ...]:
    return tuple((key, seconds * factor) for key, seconds in rows)
