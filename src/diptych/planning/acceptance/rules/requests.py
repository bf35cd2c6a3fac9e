"""Requests as the tests draw them: Poisson arrivals, lengths from the named distribution, one seed.

Knows: the order of draws, which the expected figures depend on. Does not know: who serves them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from random import Random
from typing import NamedTuple

from diptych.workload.record import Arrival, Workload

Pair = tuple[int, int]
"""Input and output tokens."""


class Asked(NamedTuple):
    """One request. ``output`` counts the first token, which prefill makes."""

    t_s: float
    input: int
    output: int


class Served(NamedTuple):
    """What became of one: seconds to the first token, mean and worst gap between tokens (None where there is
    one
    token), seconds to the last."""

    ttft_s: float
    mean_gap_s: float | None
    worst_gap_s: float | None
    e2e_s: float


@lru_cache(maxsize=1)
def sharegpt_like_pairs() -> tuple[Pair, ...]:
    """20,000 pairs whose inputs have the mean of DistServe's ShareGPT preparation (755.5, 200.3)."""
    draw = Random(5)
    pairs: list[Pair] = []
    for _ in range(20_000):
        prompt = min(2000, max(4, int(draw.gammavariate(1 / 0.36, 755.5 * 0.36))))
        output = min(1000, max(2, int(draw.gammavariate(1.2, 200.3 / 1.2))))
        pairs.append((prompt, output))
    return tuple(pairs)


def distserve_requests(rate_rps: float, seed: int, count: int = 1500) -> list[Asked]:
    """T3's requests: each a pair, output cut so that both fit into 2,048 tokens."""
    draw, pairs, t_s = Random(seed), sharegpt_like_pairs(), 0.0
    made: list[Asked] = []
    for _ in range(count):
        t_s += draw.expovariate(rate_rps)
        prompt, output = pairs[draw.randrange(len(pairs))]
        made.append(Asked(t_s, prompt, min(output, max(2, 2048 - prompt))))
    return made


def poisson_requests(pairs: Sequence[Pair], rate_rps: float, seed: int, span_s: float) -> list[Asked]:
    """T5's requests: arrivals for a span, lengths uniformly from a trace's rows."""
    draw, t_s = Random(seed), 0.0
    made: list[Asked] = []
    while (t_s := t_s + draw.expovariate(rate_rps)) <= span_s:
        made.append(Asked(t_s, *pairs[draw.randrange(len(pairs))]))
    return made


def as_workload(name: str, make: Callable[[], Sequence[Asked]]) -> Workload:
    """The same requests for the simulator."""
    return Workload(
        name,
        lambda: (Arrival(t_s=it.t_s, input_tokens=it.input, output_tokens=it.output) for it in make()),
    )
