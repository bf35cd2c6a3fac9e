"""A simulation's result as the object that other tools rely on.

Knows: its keys (docs/planning.md lists them). Does not know: how the result came about.
"""

from __future__ import annotations

from typing import Any

from diptych.planning.measure import Summary
from diptych.planning.result import PoolResult, SimulationResult


def simulation_data(result: SimulationResult) -> dict[str, Any]:
    """Plain values; None where there was nothing to measure or a figure is not known."""
    return {
        "requests": result.requests,
        "completed": result.completed,
        "rejected": result.rejected,
        "ttft_s": summary_data(result.ttft_s),
        "tpot_s": summary_data(result.tpot_s),
        "itl_s": summary_data(result.itl_s),
        "e2e_s": summary_data(result.e2e_s),
        "goodput_rps": result.goodput_rps,
        "slo_attainment": result.slo_attainment,
        "output_tokens_per_s": result.output_tokens_per_s,
        "pools": {name: _pool_data(pool) for name, pool in result.pools.items()},
        "prefix_hit_tokens": result.prefix_hit_tokens,
        "handoff": {
            "count": result.handoff.count,
            "bytes": result.handoff.bytes,
            "exposed_s": summary_data(result.handoff.exposed_s),
        },
        "events": result.events,
        "wall_s": result.wall_s,
    }


def summary_data(summary: Summary) -> dict[str, float | None]:
    """Percentiles and mean, in seconds."""
    return {"p50": summary.p50, "p90": summary.p90, "p99": summary.p99, "mean": summary.mean}


def _pool_data(pool: PoolResult) -> dict[str, float | None]:
    return {
        "utilisation": pool.utilisation,
        "busy_s": pool.busy_s,
        "kv_peak_fraction": pool.kv_peak_fraction,
        "energy_j": pool.energy_j,
        "cost": pool.cost,
    }
