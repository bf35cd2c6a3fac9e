"""Simulated against measured: the same requests on the real cluster and in virtual time.

Knows: loads that are worth comparing, percentiles, what counts as agreement. Does not know: how either side
works.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple, TypeAlias

import msgspec

from diptych.bench.house.anchor import Anchor, Drift, drifted, speeds, spread
from diptych.bench.house.ask import Answer, House
from diptych.bench.house.calibrate import Calibration, Say, calibrate, with_fitted
from diptych.bench.house.loads import Lengths, lengths_for, poisson, saturation_rps, sharing
from diptych.bench.house.steps import Step, StepWatch, seconds_of
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


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What one side of a piece saw: seconds of steps that prefill and of those that only decode, over all
    workers, and each request's times (TPOT None for a single token). In virtual time a piece is run at each
    speed that the machine may have had: seconds are the mean, and a request is there once for each speed."""

    prefill_s: float
    decode_s: float
    ttft_s: tuple[float, ...]
    tpot_s: tuple[float | None, ...]


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one load on both sides; ``speeds``: by each of which the profile was scaled for it."""

    topology: str
    load: str
    rate_rps: float
    seed: int
    speeds: tuple[Drift, ...]
    measured: Side
    simulated: Side


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the anchor load: its steps, and by what the profile is scaled for it."""

    topology: str
    speed: Drift
    steps: list[Step]


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """All percentiles, what they are made of, and the profiles that were measured for it."""

    rows: list[Comparison]
    pieces: list[Piece]
    looks: list[Look]
    calibrations: dict[str, Calibration]

    @property
    def steadiness(self) -> dict[str, tuple[Drift, Drift]]:
        """Of each topology the bounds between which most looks at the machine's speed lay."""
        found: dict[str, list[Drift]] = {}
        for look in self.looks:
            found.setdefault(look.topology, []).append(look.speed)
        return {name: spread(looks) for name, looks in found.items()}


async def validate(
    specs: dict[str, ClusterSpec],
    *,
    seconds: float,
    rounds: int,
    seed: int,
    say: Say,
    profiled: Callable[[str], ClusterSpec | None] = lambda _: None,
) -> Validation:
    """Calibrate each topology (unless ``profiled`` has it), then run every load on it and in virtual time.

    ``seconds``: about how long each load is run for real, in ``rounds`` pieces.
    """
    pieces: list[Piece] = []
    looks: list[Look] = []
    calibrations: dict[str, Calibration] = {}
    for name, spec in specs.items():
        known = profiled(name)
        if known is None:
            calibrations[name] = await calibrate(
                spec, lambda words, share, name=name: say(f"{name}: {words}", share)
            )
            known = with_fitted(spec, calibrations[name])
        its_pieces, its_looks = await _compare(name, known, seconds / rounds, rounds, seed, say)
        pieces += its_pieces
        looks += its_looks
    return Validation(rows=compared(pieces), pieces=pieces, looks=looks, calibrations=calibrations)


async def _compare(
    name: str, spec: ClusterSpec, run_s: float, rounds: int, seed: int, say: Say
) -> tuple[list[Piece], list[Look]]:
    """The machine's speed drifts by a tenth within minutes where it is shared: anchor loads before and after
    each run say how fast it may have been, and it is simulated at each of these speeds. All anchor loads say
    what the workers cost each other, and set the rows of the profile right. The runs themselves do not count
    for it."""
    watch = StepWatch()
    async with Cluster(spec, journal=watch) as cluster:
        house = House(cluster, seed=seed)
        lengths = lengths_for(cluster.max_model_tokens, spec.kv.block_tokens)
        most_rps = await asyncio.to_thread(saturation_rps, spec, lengths, seed)
        for _ in range(WARM_UPS):
            await house.together(
                [Arrival(t_s=0, input_tokens=lengths.prompt[1], output_tokens=lengths.output[0])]
            )
        loads: dict[str, tuple[float, Make]] = {
            f"{load:.0%} load": (load * most_rps, poisson) for load in LOADS
        }
        loads["shared"] = (SHARED_LOAD * most_rps, sharing)
        anchor = Anchor(house, watch, lengths, most_rps)
        looked = [await anchor.run()]
        runs: list[Run] = []
        plan = [label for _ in range(rounds) for label in loads]
        for number, label in enumerate(plan):
            rate_rps, make = loads[label]
            requests = max(LEAST_REQUESTS, int(rate_rps * run_s))
            workload = make(rate_rps, requests, lengths, seed + number)
            say(f"{name}: {label}, {requests} requests at {rate_rps:.3g}/s", number / len(plan))
            watch.take()
            answers = await house.run(workload)
            runs.append(Run(label, rate_rps, seed + number, workload, measured(answers, watch.take())))
            looked.append(await anchor.run())
    service = anchor.service
    profiled = service.profiled(spec, [step for steps in looked for step in steps])
    looks = [Look(topology=name, speed=service.drift(profiled, steps), steps=steps) for steps in looked]
    return [
        _piece(name, profiled, run, possible)
        for possible, run in zip(speeds([look.speed for look in looks]), runs, strict=True)
    ], looks


def _piece(name: str, spec: ClusterSpec, run: Run, possible: tuple[Drift, ...]) -> Piece:
    """``run`` and what ``spec`` says of it at each speed."""
    return Piece(
        topology=name,
        load=run.load,
        rate_rps=run.rate_rps,
        seed=run.seed,
        speeds=possible,
        measured=run.measured,
        simulated=simulated(
            [simulate(drifted(spec, it), run.workload, keep_requests=True) for it in possible]
        ),
    )


class Run(NamedTuple):
    """One load, run for real."""

    load: str
    rate_rps: float
    seed: int
    workload: Workload
    measured: Side


def measured(answers: Sequence[Answer], steps: Sequence[Step]) -> Side:
    """Of a real run. Raises `ClusterError` if a request did not end as it should."""
    broken = [answer for answer in answers if not answer.finished]
    if broken:
        raise ClusterError(
            f"{len(broken)} of {len(answers)} real requests did not finish; nothing to compare"
        )
    prefill_s, decode_s = seconds_of(steps)
    return Side(
        prefill_s=prefill_s,
        decode_s=decode_s,
        ttft_s=tuple(answer.ttft_s for answer in answers),
        tpot_s=tuple(answer.tpot_s for answer in answers),
    )


def simulated(results: Sequence[SimulationResult]) -> Side:
    """Of simulations of the same load that kept their requests. Raises `ClusterError` as `measured` does."""
    ttft_s: list[float] = []
    tpot_s: list[float | None] = []
    for record in (it for result in results for it in sorted(result.records, key=lambda it: it.number)):
        if record.first_token_s is None or record.last_token_s is None:
            raise ClusterError(f"request {record.number} ended as {record.state} in virtual time")
        gaps = record.output_tokens - 1
        ttft_s.append(record.first_token_s - record.arrival_s)
        tpot_s.append((record.last_token_s - record.first_token_s) / gaps if gaps else None)
    return Side(
        prefill_s=fmean(sum(pool.prefill_s for pool in it.pools.values()) for it in results),
        decode_s=fmean(sum(pool.decode_s for pool in it.pools.values()) for it in results),
        ttft_s=tuple(ttft_s),
        tpot_s=tuple(tpot_s),
    )


def compared(pieces: Sequence[Piece]) -> list[Comparison]:
    """p50 and p90 of TTFT and TPOT over all requests of each load."""
    loads: dict[tuple[str, str], list[Piece]] = {}
    for piece in pieces:
        loads.setdefault((piece.topology, piece.load), []).append(piece)
    return [row for of_load in loads.values() for row in _rows(of_load)]


def _rows(pieces: Sequence[Piece]) -> list[Comparison]:
    real = {"TTFT": Samples(), "TPOT": Samples()}
    virtual = {"TTFT": Samples(), "TPOT": Samples()}
    for piece in pieces:
        _add(real, piece.measured)
        _add(virtual, piece.simulated)
    return [
        Comparison(
            topology=pieces[0].topology,
            load=pieces[0].load,
            requests=sum(len(piece.measured.ttft_s) for piece in pieces),
            rate_rps=pieces[0].rate_rps,
            metric=f"{metric} {share}",
            measured_s=getattr(real[metric].summary(), share),
            simulated_s=getattr(virtual[metric].summary(), share),
        )
        for metric in real
        for share in ("p50", "p90")
    ]


def _add(samples: dict[str, Samples], side: Side) -> None:
    for ttft_s in side.ttft_s:
        samples["TTFT"].add(ttft_s)
    for tpot_s in side.tpot_s:
        if tpot_s is not None:
            samples["TPOT"].add(tpot_s)
