"""The highest rate that a cluster serves within its targets, by simulation and bisection.

Knows: probes, warm-up, brackets. Does not know: candidates, budgets. Runs in other processes: what goes in
and
comes out is plain data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from diptych.domain.cluster import ClusterSpec
from diptych.performance.steps import Chunk
from diptych.planning.measure import Samples
from diptych.planning.search.draws import at_rate
from diptych.planning.simulate import RequestRecord, Simulation, SimulationResult
from diptych.workload.record import Arrival, Workload

STEPS = ((0.02, 1.03), (0.05, 1.06), (0.15, 1.12), (0.4, 1.3), (1.0, 2.0))
"""How far the next rate lies while there is no bracket: (distance of the attainment from the share, factor).
The
attainment falls steeply near the goodput, so a small distance means a near crossing."""

LEAST_SHARE_OF_GUESS = 1 / 64
"""A cluster that misses its targets even at this share of the guessed rate serves nothing."""


@dataclass(frozen=True)
class Effects:
    """Where the TTFT of good and bad requests went: means in seconds."""

    decode_wait_s: float
    """Until decode memory was set aside."""
    queue_s: float
    """Waiting for the prefill worker."""
    prefill_s: float
    """The prompt alone on an idle worker."""
    handoff_s: float
    """From the end of prefill until decode may start: inside the first gap, not inside TTFT."""


@dataclass(frozen=True)
class Probe:
    """One simulation at one rate, without warm-up and drain."""

    rate_rps: float
    attainment: float
    ttft_p50_s: float
    ttft_p90_s: float
    tpot_p50_s: float
    tpot_p90_s: float
    effects: Effects
    utilisation: dict[str, float]
    kv_peak: dict[str, float]
    watts: float | None
    """Mean draw of all pools; None: not known of one."""
    output_tokens_per_s: float
    requests: int
    """Measured ones."""
    simulated: int


@dataclass(frozen=True)
class Goodput:
    """What a search found. ``at`` is the probe nearest below the goodput."""

    rate_rps: float
    at: Probe | None
    probes: tuple[Probe, ...]


@dataclass(frozen=True)
class Search:
    """How a goodput is searched."""

    share: float
    tolerance: float
    most_probes: int
    least_requests: int
    most_requests: int
    stay_s: float
    """Mean time of a request in the cluster: warm-up, and the length of a run."""
    seen: tuple[Probe, ...] = ()
    """Probes of the same draw from an earlier, coarser search."""


def find_goodput(
    spec: ClusterSpec, arrivals: Sequence[Arrival], block_tokens: int, guess_rps: float, search: Search
) -> Goodput:
    """Bisection between a rate that is good and one that is not, begun at ``guess_rps``."""
    return bisect_rate(lambda rate: probe(spec, arrivals, block_tokens, rate, search), guess_rps, search)


def bisect_rate(run: Callable[[float], Probe], guess_rps: float, search: Search) -> Goodput:
    """The rate at which the attainment crosses ``search.share``, on the line between the nearest two
    probes."""
    probes: list[Probe] = []
    good = [it for it in search.seen if it.attainment >= search.share]
    bad = [it for it in search.seen if it.attainment < search.share]
    low = max(good, key=lambda it: it.rate_rps, default=None)
    high = min(bad, key=lambda it: it.rate_rps, default=None)
    rate, last = guess_rps, 1.0
    while len(probes) < search.most_probes:
        if low is not None and high is not None:
            if high.rate_rps <= low.rate_rps * (1 + search.tolerance):
                break
            rate = _between(low, high, search.share)
        elif probes:
            last = max(step_factor(probes[-1].attainment - search.share), last * last)
            rate = rate * last if low is not None else rate / last
            if rate < guess_rps * LEAST_SHARE_OF_GUESS:
                break
        seen = run(rate)
        probes.append(seen)
        if seen.attainment >= search.share:
            low = seen
        else:
            high = seen
    if low is None:
        return Goodput(0.0, None, (*search.seen, *probes))
    found = low.rate_rps if high is None else _crossing(low, high, search.share)
    return Goodput(found, low, (*search.seen, *probes))


def step_factor(distance: float) -> float:
    """See `STEPS`."""
    return next((factor for upto, factor in STEPS if abs(distance) <= upto), STEPS[-1][1])


def _crossing(low: Probe, high: Probe, share: float) -> float:
    fall = low.attainment - high.attainment
    if fall <= 0:
        return low.rate_rps
    return low.rate_rps + (high.rate_rps - low.rate_rps) * (low.attainment - share) / fall


def _between(low: Probe, high: Probe, share: float) -> float:
    """Where the line crosses, but well inside the bracket, so that it shrinks from both ends."""
    span = high.rate_rps - low.rate_rps
    return min(max(_crossing(low, high, share), low.rate_rps + 0.2 * span), high.rate_rps - 0.2 * span)


# ---------------------------------------------------------------- one simulation


def probe(
    spec: ClusterSpec, arrivals: Sequence[Arrival], block_tokens: int, rate_rps: float, search: Search
) -> Probe:
    """Simulate as many requests as a warm-up, a measured span and a drain need at this rate."""
    wanted = search.least_requests + int(2.0 * rate_rps * search.stay_s)
    count = max(search.least_requests, min(wanted, search.most_requests, len(arrivals)))
    rows = at_rate(arrivals[:count], rate_rps)
    load = Workload("draw", lambda: iter(rows), block_tokens, len(rows))
    simulation = Simulation(spec, load, keep_requests=True)
    result = simulation.run()
    span_s = rows[-1].t_s
    begin_s = min(search.stay_s, 0.4 * span_s)
    end_s = span_s - min(0.5 * search.stay_s, 0.2 * span_s)
    seen = [record for record in result.records if begin_s <= record.arrival_s <= end_s]
    return _summed(spec, simulation, result, seen or list(result.records), rate_rps)


def _summed(
    spec: ClusterSpec,
    simulation: Simulation,
    result: SimulationResult,
    records: list[RequestRecord],
    rate_rps: float,
) -> Probe:
    ttft, tpot = Samples(), Samples()
    good = 0
    for record in records:
        if record.first_token_s is None or record.last_token_s is None or record.state != "finished":
            continue
        first_s = record.first_token_s - record.arrival_s
        gap_s = (record.last_token_s - record.first_token_s) / max(1, record.output_tokens - 1)
        ttft.add(first_s)
        tpot.add(gap_s)
        good += first_s <= (spec.slo.ttft_s or first_s) and gap_s <= (spec.slo.tpot_s or gap_s)
    firsts, gaps = ttft.summary(), tpot.summary()
    return Probe(
        rate_rps=rate_rps,
        attainment=good / len(records) if records else 0.0,
        ttft_p50_s=firsts.p50 or 0.0,
        ttft_p90_s=firsts.p90 or 0.0,
        tpot_p50_s=gaps.p50 or 0.0,
        tpot_p90_s=gaps.p90 or 0.0,
        effects=_effects(simulation, records),
        utilisation={name: pool.utilisation for name, pool in result.pools.items()},
        kv_peak={name: pool.kv_peak_fraction for name, pool in result.pools.items()},
        watts=_watts(result),
        output_tokens_per_s=result.output_tokens_per_s,
        requests=len(records),
        simulated=result.requests,
    )


def _effects(simulation: Simulation, records: list[RequestRecord]) -> Effects:
    members = {str(member.info.worker_id): member for member in simulation.fleet.members}
    waits: list[float] = []
    queues: list[float] = []
    alone: list[float] = []
    handoffs: list[float] = []
    for record in records:
        member = members.get(record.prefill_worker or "")
        if member is None or record.first_token_s is None:
            continue
        cached, chunk = record.cached_tokens, member.pool.token_budget
        own_s = sum(
            member.model.step_s([Chunk(min(chunk, record.input_tokens - done), done)], 0, 0)
            for done in range(min(cached, record.input_tokens - 1), record.input_tokens, chunk)
        )
        wait_s = record.decode_wait_s or 0.0
        waits.append(wait_s)
        alone.append(own_s)
        queues.append(max(0.0, record.first_token_s - record.arrival_s - wait_s - own_s))
        handoffs.append(record.handoff_s)
    if not waits:
        return Effects(0.0, 0.0, 0.0, 0.0)
    return Effects(fmean(waits), fmean(queues), fmean(alone), fmean(handoffs))


def _watts(result: SimulationResult) -> float | None:
    joules = [pool.energy_j for pool in result.pools.values()]
    if result.makespan_s <= 0 or any(item is None for item in joules):
        return None
    return sum(item for item in joules if item is not None) / result.makespan_s
