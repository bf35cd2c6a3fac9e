"""Loads that suit a cluster: lengths from its model's context, rates from what it can bear.

Knows: seeded arrivals, shared prefixes, bisection for the rate that keeps a simulated cluster busy. Does not
know: real clusters, what the loads are for.
"""

from __future__ import annotations

import random

import msgspec

from diptych.domain.cluster import ClusterSpec
from diptych.planning.simulate import simulate
from diptych.workload.record import Arrival, Workload

PROBE_REQUESTS = 400
"""Of one step of the search for a saturated cluster. With 80, the rate depends more on the draw than on the
cluster."""

FAMILIES = 6
"""Prefixes that the requests of the trace share."""


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


def saturation_rps(spec: ClusterSpec, lengths: Lengths, seed: int) -> float:
    """The rate at which the busiest pool of the simulated cluster has no rest until the last request has
    arrived: bisection over busy shares."""
    low, high = 1e-3, 1e4
    for _ in range(24):
        middle = (low * high) ** 0.5
        workload = poisson(middle, PROBE_REQUESTS, lengths, seed)
        result = simulate(spec, workload)
        busiest_s = max(pool.busy_s / pool.workers for pool in result.pools.values())
        low, high = (middle, high) if busiest_s < max(it.t_s for it in workload) else (low, middle)
    return low
