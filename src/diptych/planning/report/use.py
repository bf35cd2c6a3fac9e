"""How much of its hardware each phase uses: compute and bandwidth, always apart.

Knows: roofline step models' own shares, the mix of steps of a plan. Does not know: how they are shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diptych.domain.worker import Role
from diptych.performance.steps import Chunk, Chunks
from diptych.planning.search.candidate import PoolPlan
from diptych.planning.search.finalist import Finalist
from diptych.planning.search.shape import Shape


@dataclass(frozen=True)
class PhaseUse:
    """Shares of the peak while the phase runs, and the share of time that its pool is busy at all."""

    pool: str
    phase: str
    compute: float
    bandwidth: float
    busy: float | None


def phase_uses(finalist: Finalist, shape: Shape) -> list[PhaseUse]:
    """One line for each pool and phase; none for measured profiles, whose peaks nobody knows."""
    uses: list[PhaseUse] = []
    at = finalist.at
    busy = list(at.utilisation.values()) if at is not None else []
    for number, pool in enumerate(finalist.candidate.pools):
        measure = getattr(pool.engine.steps, "utilisation", None)
        if measure is None:
            continue
        share = busy[number] if number < len(busy) else None
        if pool.role is not Role.DECODE:
            uses.append(_prefill(pool, shape, measure, share))
        if pool.role is not Role.PREFILL:
            uses.append(_decode(pool, shape, measure, share, finalist))
    return uses


def _prefill(
    pool: PoolPlan,
    shape: Shape,
    measure: Callable[[Chunks, int, int], Any],
    busy: float | None,
) -> PhaseUse:
    """Mean over the workload's prompts, by the time that each takes."""
    seconds = compute = bandwidth = 0.0
    for row in shape.rows:
        chunk = Chunk(min(row.new_tokens, pool.chunk_tokens), row.cached_tokens)
        took_s = pool.engine.steps.step_s([chunk], 0, 0)
        found = measure([chunk], 0, 0)
        seconds += took_s
        compute += took_s * found.compute
        bandwidth += took_s * found.bandwidth
    return PhaseUse(pool.words, "prefill", compute / seconds, bandwidth / seconds, busy)


def _decode(
    pool: PoolPlan,
    shape: Shape,
    measure: Callable[[Chunks, int, int], Any],
    busy: float | None,
    finalist: Finalist,
) -> PhaseUse:
    """At the mean batch of the goodput: λ · outputs · TPOT, over the workers that decode."""
    decoders = sum(it.workers for it in finalist.candidate.pools if it.role is not Role.PREFILL)
    tpot_s = finalist.at.tpot_p50_s if finalist.at is not None else 0.0
    rate = finalist.at.rate_rps if finalist.at is not None else 0.0
    batch = max(1, round(rate * shape.output_tokens * tpot_s / max(1, decoders)))
    found = measure((), batch, round(batch * shape.context_tokens))
    return PhaseUse(pool.words, f"decode, batch {batch}", found.compute, found.bandwidth, busy)
