"""Simulated against measured: the same requests on the real cluster and in virtual time.

Knows: loads that are worth comparing, percentiles, what counts as agreement. Does not know: how either side
works.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from diptych.bench.house.anchor import Anchor, Drift, drifted
from diptych.bench.house.ask import Answer, House
from diptych.bench.house.calibrate import Calibration, Say, calibrate, with_fitted
from diptych.bench.house.loads import Lengths, lengths_for, poisson, saturation_rps, sharing
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

LEAST_REQUESTS = 8
"""Of one run."""

Make: TypeAlias = Callable[[float, int, Lengths, int], Workload]
"""Rate, requests, lengths and seed → workload."""

WARM_UPS = 3
"""Longest prompts before the first comparison: a worker's first steps pay for memory touched first."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One percentile over all requests of one load. Seconds."""

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
    rounds: int,
    seed: int,
    say: Say,
    profiled: Callable[[str], ClusterSpec | None] = lambda _: None,
) -> tuple[list[Comparison], dict[str, Calibration]]:
    """Calibrate each topology (unless ``profiled`` has it), then run every load on it and in virtual time.

    ``seconds``: about how long each load is run for real, in ``rounds`` pieces.
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
        rows += await _compare(name, known, seconds / rounds, rounds, seed, say)
    return rows, calibrations


async def _compare(
    name: str, spec: ClusterSpec, run_s: float, rounds: int, seed: int, say: Say
) -> list[Comparison]:
    """The machine's speed drifts by a tenth within minutes where it is shared: anchor loads before and after
    each run say how fast it was, and the profile is scaled by that. The run itself is not looked at."""
    watch = StepWatch()
    async with Cluster(spec, journal=watch) as cluster:
        house = House(cluster, seed=seed)
        lengths = lengths_for(cluster.max_model_tokens, spec.kv.block_tokens)
        most_rps = saturation_rps(spec, lengths, seed)
        for _ in range(WARM_UPS):
            await house.together(
                [Arrival(t_s=0, input_tokens=lengths.prompt[1], output_tokens=lengths.output[0])]
            )
        sides = {f"{load:.0%} load": Sides(load * most_rps, poisson) for load in LOADS}
        sides["shared"] = Sides(SHARED_LOAD * most_rps, sharing)
        anchor = Anchor(house, watch, spec)
        looks = [await anchor.look()]
        runs: list[tuple[Sides, Workload, list[Answer]]] = []
        plan = [(label, both) for _ in range(rounds) for label, both in sides.items()]
        for number, (label, both) in enumerate(plan):
            requests = max(LEAST_REQUESTS, int(both.rate_rps * run_s))
            workload = both.make(both.rate_rps, requests, lengths, seed + number)
            say(f"{name}: {label}, {requests} requests at {both.rate_rps:.3g}/s", number / len(plan))
            runs.append((both, workload, await house.run(workload)))
            looks.append(await anchor.look())
    for number, (both, workload, answers) in enumerate(runs):
        both.add(answers, simulate(drifted(spec, *around(looks, number)), workload, keep_requests=True))
    return [row for label, both in sides.items() for row in both.rows(name, label)]


def around(looks: Sequence[Drift], number: int) -> list[Drift]:
    """The looks that say how fast the machine was during a run: one look is off by some hundredths itself,
    so two on each side count, and the nearest twice."""
    return [*looks[max(0, number - 1) : number + 3], *looks[number : number + 2]]


class Sides:
    """One load: what its requests saw for real and in virtual time, over all its runs."""

    def __init__(self, rate_rps: float, make: Make) -> None:
        self.rate_rps = rate_rps
        self.make = make
        self._requests = 0
        self._real = {"TTFT": Samples(), "TPOT": Samples()}
        self._virtual = {"TTFT": Samples(), "TPOT": Samples()}

    def add(self, answers: Sequence[Answer], simulated: SimulationResult) -> None:
        """One run. Raises `ClusterError` if a request did not end as it should."""
        broken = [answer for answer in answers if not answer.finished]
        if broken:
            raise ClusterError(
                f"{len(broken)} of {len(answers)} real requests did not finish; nothing to compare"
            )
        self._requests += len(answers)
        for answer in answers:
            _add(self._real, answer.ttft_s, answer.tpot_s)
        for record in simulated.records:
            if record.first_token_s is None or record.last_token_s is None:
                raise ClusterError(f"request {record.number} ended as {record.state} in virtual time")
            gaps = record.output_tokens - 1
            tpot_s = (record.last_token_s - record.first_token_s) / gaps if gaps else None
            _add(self._virtual, record.first_token_s - record.arrival_s, tpot_s)

    def rows(self, topology: str, load: str) -> list[Comparison]:
        """p50 and p90 of TTFT and TPOT."""
        return [
            Comparison(
                topology=topology,
                load=load,
                requests=self._requests,
                rate_rps=self.rate_rps,
                metric=f"{metric} {share}",
                measured_s=getattr(self._real[metric].summary(), share),
                simulated_s=getattr(self._virtual[metric].summary(), share),
            )
            for metric in self._real
            for share in ("p50", "p90")
        ]


def _add(side: dict[str, Samples], ttft_s: float, tpot_s: float | None) -> None:
    side["TTFT"].add(ttft_s)
    if tpot_s is not None:
        side["TPOT"].add(tpot_s)
