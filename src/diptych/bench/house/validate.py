"""Simulated against measured: the same requests on the real cluster and in virtual time.

Knows: loads that are worth comparing, percentiles, what counts as agreement. Does not know: how either side
works.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from diptych.bench.house.anchor import Anchor, drifted
from diptych.bench.house.ask import Answer, House
from diptych.bench.house.calibrate import Calibration, Say, calibrate, with_fitted
from diptych.bench.house.loads import lengths_for, poisson, saturation_rps, sharing
from diptych.bench.house.steps import StepWatch
from diptych.domain.cluster import ClusterSpec
from diptych.domain.errors import ClusterError
from diptych.planning.measure import Samples
from diptych.planning.result import SimulationResult
from diptych.planning.simulate import simulate
from diptych.runtime.cluster import Cluster
from diptych.workload.record import Arrival

TOLERANCE = 0.10
"""Of the measured percentile."""

LOADS = (0.3, 0.55, 0.75)
"""Shares of the rate at which the simulated cluster's busiest pool is always busy."""

SHARED_LOAD = 0.5

WARM_UPS = 3
"""Longest prompts before the first comparison: a worker's first steps pay for memory touched first."""


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
    """The machine's speed drifts by a tenth within minutes where it is shared: an anchor load before and
    after each run says how fast it was, and the profile is scaled by that. The run itself is not looked
    at."""
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
        anchor = Anchor(house, watch, spec)
        before = await anchor.look()
        for number, (label, load, make) in enumerate(runs):
            rate_rps = load * most_rps
            requests = max(24, int(rate_rps * seconds))
            workload = make(rate_rps, requests, lengths, seed + number)
            say(f"{name}: {label}, {requests} requests at {rate_rps:.3g}/s", number / len(runs))
            answers = await house.run(workload)
            after = await anchor.look()
            simulated = simulate(drifted(spec, before, after), workload)
            rows += compared(name, label, rate_rps, answers, simulated)
            before = after
    return rows


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
