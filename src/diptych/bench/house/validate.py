"""Simulated against measured: the same requests on the real cluster and in virtual time.

Knows: loads that are worth comparing, percentiles, what counts as agreement. Does not know: how either side
works.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import msgspec

from diptych.bench.house.anchor import drifted, look
from diptych.bench.house.ask import Answer, House
from diptych.bench.house.calibrate import Calibration, Say, calibrate, with_fitted
from diptych.bench.house.steps import StepWatch
from diptych.domain.cluster import ClusterSpec
from diptych.domain.errors import ClusterError
from diptych.planning.measure import Samples
from diptych.planning.result import SimulationResult
from diptych.planning.simulate import simulate
from diptych.runtime.cluster import Cluster
from diptych.workload.record import Arrival, Workload

TOLERANCE = 0.10
"""Of the measured percentile."""

LOADS = (0.3, 0.55, 0.75)
"""Shares of the rate at which the simulated cluster's busiest pool is always busy."""

SHARED_LOAD = 0.5

WARM_UPS = 3
"""Longest prompts before the first comparison: a worker's first steps pay for memory touched first."""

FAMILIES = 6
"""Prefixes that the requests of the trace share."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One percentile of one run. Seconds."""

    topology: str
    load: str
    requests: int
    rate_rps: float
    metric: str
    measured_s: float
    simulated_s: float

    @property
    def error(self) -> float:
        """Simulated over measured, minus one."""
        return self.simulated_s / self.measured_s - 1

    @property
    def passed(self) -> bool:
        """Whether it lies within `TOLERANCE`."""
        return abs(self.error) <= TOLERANCE


class Lengths(msgspec.Struct, frozen=True, kw_only=True):
    """Prompts and outputs that suit a model's context."""

    prompt: tuple[int, int]
    output: tuple[int, int]
    shared: int
    """Tokens of a shared prefix."""


def lengths_for(longest: int, block_tokens: int) -> Lengths:
    """Prompts up to a third and outputs up to a sixth of the context, a thousand and a few hundred at
    most."""
    most, out = min(1024, longest // 3), min(128, longest // 6)
    shared = max(block_tokens, most // 2 // block_tokens * block_tokens)
    return Lengths(prompt=(max(16, most // 8), most), output=(max(4, out // 4), out), shared=shared)


def poisson(rate_rps: float, requests: int, lengths: Lengths, seed: int) -> Workload:
    """Independent requests."""
    rng = random.Random(seed)
    arrivals, t_s = [], 0.0
    for _ in range(requests):
        t_s += rng.expovariate(rate_rps)
        output = rng.randint(*lengths.output)
        prompt = rng.randint(*lengths.prompt)
        arrivals.append(Arrival(t_s=t_s, input_tokens=prompt, output_tokens=output, max_tokens=output))
    return Workload(f"poisson {rate_rps:.3g}/s", lambda: iter(arrivals), 1, requests)


def sharing(rate_rps: float, requests: int, lengths: Lengths, seed: int) -> Workload:
    """A trace whose prompts begin with one of a few prefixes."""
    rng = random.Random(seed)
    arrivals, t_s = [], 0.0
    for _ in range(requests):
        t_s += rng.expovariate(rate_rps)
        output = rng.randint(*lengths.output)
        own = rng.randint(8, max(9, lengths.prompt[1] - lengths.shared))
        ids = (seed * FAMILIES + rng.randrange(FAMILIES),)
        arrivals.append(
            Arrival(
                t_s=t_s,
                input_tokens=lengths.shared + own,
                output_tokens=output,
                max_tokens=output,
                hash_ids=ids,
            )
        )
    return Workload("shared prefixes", lambda: iter(arrivals), lengths.shared, requests)


async def validate(
    specs: dict[str, ClusterSpec],
    *,
    seconds: float,
    seed: int,
    say: Say,
    profiled: Callable[[str], ClusterSpec | None] = lambda _: None,
) -> tuple[list[Comparison], dict[str, Calibration]]:
    """Calibrate each topology (unless ``profiled`` has it), then run every load on it and in virtual time.

    ``seconds``: about how long each real run lasts.
    """
    rows: list[Comparison] = []
    calibrations: dict[str, Calibration] = {}
    for name, spec in specs.items():
        known = profiled(name)
        if known is None:
            calibrations[name] = await calibrate(
                spec, lambda words, share, name=name: say(f"{name}: {words}", share)
            )
            known = with_fitted(spec, calibrations[name])
        rows += await _compare(name, known, seconds, seed, say)
    return rows, calibrations


async def _compare(name: str, spec: ClusterSpec, seconds: float, seed: int, say: Say) -> list[Comparison]:
    """The machine's speed drifts by a tenth within minutes where it is shared: anchor steps before and after
    each run say how fast it was, and the profile is scaled by that. The run itself is not looked at."""
    rows: list[Comparison] = []
    watch = StepWatch()
    async with Cluster(spec, journal=watch) as cluster:
        house = House(cluster, seed=seed)
        lengths = lengths_for(cluster.max_model_tokens, spec.kv.block_tokens)
        most_rps = saturation_rps(spec, lengths, seed)
        for _ in range(WARM_UPS):
            await house.together(
                [Arrival(t_s=0, input_tokens=lengths.prompt[1], output_tokens=lengths.output[0])]
            )
        runs = [(f"{load:.0%} load", load, poisson) for load in LOADS] + [("shared", SHARED_LOAD, sharing)]
        before = await look(house, watch, spec)
        for number, (label, load, make) in enumerate(runs):
            rate_rps = load * most_rps
            requests = max(24, int(rate_rps * seconds))
            workload = make(rate_rps, requests, lengths, seed + number)
            say(f"{name}: {label}, {requests} requests at {rate_rps:.3g}/s", number / len(runs))
            answers = await house.run(workload)
            after = await look(house, watch, spec)
            simulated = simulate(drifted(spec, (before, after)), workload)
            rows += compared(name, label, rate_rps, answers, simulated)
            before = after
    return rows


def saturation_rps(spec: ClusterSpec, lengths: Lengths, seed: int) -> float:
    """The rate at which the busiest pool of the simulated cluster has no rest: bisection over busy shares."""
    low, high = 1e-3, 1e4
    for _ in range(24):
        middle = (low * high) ** 0.5
        result = simulate(spec, poisson(middle, 80, lengths, seed))
        span_s = 80 / middle
        busiest = max(pool.busy_s / pool.workers for pool in result.pools.values())
        low, high = (middle, high) if busiest < span_s else (low, middle)
    return low


def compared(
    topology: str, load: str, rate_rps: float, answers: Sequence[Answer], simulated: SimulationResult
) -> list[Comparison]:
    """p50 and p90 of TTFT and TPOT. Raises `ClusterError` if a real request did not end as it should."""
    broken = [answer for answer in answers if not answer.finished]
    if broken:
        raise ClusterError(
            f"{len(broken)} of {len(answers)} real requests did not finish; nothing to compare"
        )
    ttft, tpot = Samples(), Samples()
    for answer in answers:
        ttft.add(answer.ttft_s)
        if (tpot_s := answer.tpot_s) is not None:
            tpot.add(tpot_s)
    pairs = (("TTFT", ttft.summary(), simulated.ttft_s), ("TPOT", tpot.summary(), simulated.tpot_s))
    return [
        Comparison(
            topology=topology,
            load=load,
            requests=len(answers),
            rate_rps=rate_rps,
            metric=f"{metric} {share}",
            measured_s=getattr(real, share),
            simulated_s=getattr(virtual, share),
        )
        for metric, real, virtual in pairs
        for share in ("p50", "p90")
    ]
