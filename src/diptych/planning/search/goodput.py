"""The highest rate that a cluster serves within its targets, by simulation and bisection.

Knows: probes, warm-up, brackets. Does not know: candidates, budgets. Runs in other processes: what goes in
and comes out is plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, gcd
from statistics import fmean

from diptych.domain.cluster import ClusterSpec
from diptych.domain.worker import Role
from diptych.performance.steps import Chunk
from diptych.planning.measure import Samples
from diptych.planning.result import RequestRecord, SimulationResult
from diptych.planning.search.draws import Draw
from diptych.planning.simulate import Simulation
from diptych.workload.record import Workload

WIDE = 1.2
"""Ratio of a bracket's ends from which on it is halved."""

GROWTH = 1.3
"""Each further step without a bracket is larger than the one before, as a power of it."""

STEPS = ((0.02, 1.03), (0.05, 1.06), (0.15, 1.12), (0.4, 1.2), (1.0, 1.4))
"""How far the next rate lies while there is no bracket: (distance of the attainment from the share,
factor). The attainment falls steeply near the goodput, so a small distance means a near crossing."""

STAYS = 1.4
"""Times that a request stays in the cluster, which a run lasts beside its measured span: warm-up and
drain."""

STRETCH = 3
"""A fleet that cannot be cut into parts gets runs so many times longer than usual, and no more."""

LEAST_WORKERS = 6
"""Of a part: a queue before fewer is much longer than its share of the whole fleet's."""

MOST_PROBES = 9
"""Until there is a bracket: without one a search has found a bound and not a goodput."""

LEAST_SHARE_OF_GUESS = 1 / 64
"""A cluster that misses its targets even at this share of the guessed rate serves nothing."""


@dataclass(frozen=True)
class Effects:
    """Where the TTFT of good and bad requests went: means in seconds."""

    place_wait_s: float
    """Until a place was found: room in a prefill worker's backlog and, in a split, decode memory."""
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
    ttft_missed: float
    """Share of the requests whose first token was late, or never came."""
    tpot_missed: float
    ttft_p50_s: float
    ttft_p90_s: float
    tpot_p50_s: float
    tpot_p90_s: float
    effects: Effects
    utilisation: dict[str, float]
    kv_peak: dict[str, float]
    large_share: float
    """Share of a decoding worker's KV that a large request takes (the 90th percentile): with less free, it
    waits."""
    watts: float | None
    """Mean draw of all pools; None: not known of one."""
    output_tokens_per_s: float
    requests: int
    """Measured ones."""
    simulated: int
    parts: int
    """Equal parts of the fleet, one of which was simulated."""
    settled: bool
    """Whether the run was long enough for the rate."""


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
    """Warm-up: time after which a cluster that starts empty is about as full as it will be."""
    span_s: float = 0.0
    """Least measured span: in a short one a queue that would grow for ever is not long yet."""
    parts: int = 1
    """Equal parts that every fleet is cut into, if its counts allow."""
    seen: tuple[Probe, ...] = ()
    """Probes of the same draw from an earlier, coarser search."""


def find_goodput(spec: ClusterSpec, draw: Draw, guess_rps: float, search: Search) -> Goodput:
    """Bisection between a rate that is good and one that is not, begun at ``guess_rps``.

    A run has to be longer than the time for which requests stay, so that large fleets would need very many
    requests. A fleet of k equal parts is simulated as one part at 1/k of the rate where that saves it: the
    queue of a part is no shorter than that of the whole, so the goodput is not exaggerated; and k is the same
    for all fleets of many workers in a plan, so that none gains by it."""
    parts = parts_of(spec, search)
    part = one_part(spec, parts)
    return bisect_rate(lambda rate: probe(part, draw, rate, parts, search), guess_rps, search)


def requests_needed(rate_rps: float, search: Search) -> int:
    """Of one simulation: a warm-up, a measured span, a drain."""
    measured = max(search.least_requests, ceil(rate_rps * search.span_s))
    return measured + ceil(STAYS * rate_rps * search.stay_s)


def parts_of(spec: ClusterSpec, search: Search) -> int:
    """Equal parts (1: the whole fleet): as wished, or as many of those as all pools can be cut into without
    becoming small."""
    common = gcd(search.parts, *(pool.workers for pool in spec.pools))
    most = sum(pool.workers for pool in spec.pools) // LEAST_WORKERS
    return max((k for k in range(1, common + 1) if common % k == 0 and k <= most), default=1)


def one_part(spec: ClusterSpec, parts: int) -> ClusterSpec:
    """One of ``parts`` equal parts of a fleet."""
    pools = tuple(pool.model_copy(update={"workers": pool.workers // parts}) for pool in spec.pools)
    return spec.model_copy(update={"pools": pools})


def bisect_rate(run: Callable[[float], Probe], guess_rps: float, search: Search) -> Goodput:
    """The rate at which the attainment crosses ``search.share``, on the line between the nearest two
    probes."""
    probes: list[Probe] = []
    good = [it for it in search.seen if it.attainment >= search.share]
    bad = [it for it in search.seen if it.attainment < search.share]
    low = max(good, key=lambda it: it.rate_rps, default=None)
    high = min(bad, key=lambda it: it.rate_rps, default=None)
    rate, last = guess_rps, 1.0
    while len(probes) < (search.most_probes if low is not None and high is not None else MOST_PROBES):
        if low is not None and high is not None:
            if high.rate_rps <= low.rate_rps * (1 + search.tolerance):
                break
            rate = _between(low, high, search.share)
        elif probes:
            last = max(step_factor(probes[-1].attainment - search.share), last**GROWTH)
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
    """The middle of a wide bracket: attainment falls like a cliff there, and a line would lie. In a narrow
    one
    where the line crosses, but well inside, so that it shrinks from both ends."""
    if high.rate_rps > WIDE * low.rate_rps:
        return (low.rate_rps * high.rate_rps) ** 0.5
    span = high.rate_rps - low.rate_rps
    return min(max(_crossing(low, high, share), low.rate_rps + 0.2 * span), high.rate_rps - 0.2 * span)


# ---------------------------------------------------------------- one simulation


def probe(spec: ClusterSpec, draw: Draw, rate_rps: float, parts: int, search: Search) -> Probe:
    """Simulate as many requests as a warm-up, a measured span and a drain need at this rate (of the whole
    fleet, of which ``spec`` is one part)."""
    needed = requests_needed(rate_rps / parts, search)
    rows = draw.at_rate(rate_rps / parts, min(needed, STRETCH * search.most_requests))
    load = Workload("draw", lambda: iter(rows), draw.block_tokens, len(rows))
    simulation = Simulation(spec, load, keep_requests=True)
    result = simulation.run()
    span_s = rows[-1].t_s
    begin_s = min(search.stay_s, 0.5 * span_s)
    end_s = span_s - min(0.3 * search.stay_s, 0.2 * span_s)
    seen = [record for record in result.records if begin_s <= record.arrival_s <= end_s]
    settled = len(rows) >= 0.9 * needed
    return _summed(simulation, result, seen or list(result.records), (rate_rps, parts, settled))


def _summed(
    simulation: Simulation,
    result: SimulationResult,
    records: list[RequestRecord],
    run: tuple[float, int, bool],
) -> Probe:
    spec = simulation.spec
    rate_rps, parts, settled = run
    ttft, tpot = Samples(), Samples()
    good = late = slow = 0
    for record in records:
        if record.first_token_s is None or record.last_token_s is None or record.state != "finished":
            late += 1
            continue
        first_s = record.first_token_s - record.arrival_s
        gap_s = (record.last_token_s - record.first_token_s) / max(1, record.output_tokens - 1)
        ttft.add(first_s)
        tpot.add(gap_s)
        is_late = first_s > (spec.slo.ttft_s or first_s)
        is_slow = gap_s > (spec.slo.tpot_s or gap_s)
        late, slow, good = late + is_late, slow + is_slow, good + (not is_late and not is_slow)
    firsts, gaps = ttft.summary(), tpot.summary()
    return Probe(
        rate_rps=rate_rps,
        attainment=good / max(1, len(records)),
        ttft_missed=late / max(1, len(records)),
        tpot_missed=slow / max(1, len(records)),
        ttft_p50_s=firsts.p50 or 0.0,
        ttft_p90_s=firsts.p90 or 0.0,
        tpot_p50_s=gaps.p50 or 0.0,
        tpot_p90_s=gaps.p90 or 0.0,
        effects=_effects(simulation, records),
        utilisation={name: pool.utilisation for name, pool in result.pools.items()},
        kv_peak={name: pool.kv_peak_fraction for name, pool in result.pools.items()},
        large_share=_large_share(simulation, records),
        watts=_watts(result, parts),
        output_tokens_per_s=result.output_tokens_per_s * parts,
        requests=len(records),
        simulated=result.requests,
        parts=parts,
        settled=settled,
    )


def _large_share(simulation: Simulation, records: list[RequestRecord]) -> float:
    reserve = simulation.spec.limits.output_reserve_tokens
    sizes = sorted(record.input_tokens + min(record.output_tokens, reserve) for record in records)
    holds = [m.model.kv_tokens for m in simulation.fleet.members if m.info.role is not Role.PREFILL]
    return sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))] / min(holds) if sizes and holds else 0.0


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


def _watts(result: SimulationResult, parts: int) -> float | None:
    joules = [pool.energy_j for pool in result.pools.values()]
    if result.makespan_s <= 0 or any(item is None for item in joules):
        return None
    return parts * sum(item for item in joules if item is not None) / result.makespan_s
