"""A plan as the object that other tools rely on.

Knows: its keys (docs/planning.md lists them). Does not know: how the plan came about, files.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from diptych.planning.report.assumptions import assumptions
from diptych.planning.report.use import phase_uses
from diptych.planning.search.finalist import Finalist, Interval
from diptych.planning.search.goodput import Probe
from diptych.planning.search.plan import Plan
from diptych.planning.search.targets import BudgetUnit

UNITS: dict[BudgetUnit, str] = {"devices": "per_chip", "watts": "per_watt", "money": "per_dollar_hour"}
"""Keys of rates per unit of hardware."""

WORST_CALLS = "latency_of_a_session_s"


def plan_data(plan: Plan) -> dict[str, Any]:
    """Plain values. ``verdict`` is one of 'split', 'do not split', 'hybrid', 'undecided'."""
    verdict = plan.verdict
    return {
        "verdict": verdict.decision,
        "words": verdict.words,
        "reason": verdict.reason,
        "binds": verdict.binds,
        "ratio": None if verdict.ratio is None else _interval(verdict.ratio),
        "gains": {UNITS[unit]: verdict.gains.get(unit) for unit in UNITS},
        "best": _finalist(verdict.chosen, plan),
        "candidates": [_finalist(it, plan) for it in plan.finalists],
        "baseline": _finalist(plan.leaders.baseline, plan),
        "break_even": [asdict(it) for it in plan.break_even],
        "regret": None if plan.regret is None else asdict(plan.regret),
        "pareto": {
            UNITS[unit]: [asdict(p) for p in plan.pareto[unit]] for unit in UNITS if unit in plan.pareto
        },
        "floors": asdict(plan.floors),
        "workload": _workload(plan),
        "targets": asdict(plan.inquiry.targets),
        "budget": {"unit": plan.inquiry.budget.unit, "limit": plan.inquiry.budget.limit},
        "seeds": list(range(plan.inquiry.effort.seeds)),
        "considered": plan.considered,
        "simulated_requests": plan.simulated_requests,
        "assumptions": assumptions(plan),
    }


def _workload(plan: Plan) -> dict[str, Any]:
    shape = plan.shape
    return {
        "name": plan.inquiry.traffic.spec,
        "rate_rps": shape.rate_rps,
        "input_tokens": shape.input_tokens,
        "cached_share": shape.cached_share,
        "output_tokens": shape.output_tokens,
        "burstiness": shape.burstiness,
        "calls_per_session": plan.calls,
        "notes": list(plan.inquiry.traffic.notes),
    }


def _finalist(finalist: Finalist, plan: Plan) -> dict[str, Any]:
    candidate = finalist.candidate
    return {
        "kind": candidate.kind,
        "name": candidate.name,
        "pools": [
            {
                "engine": pool.engine.name,
                "chip": pool.engine.chip,
                "role": pool.role.value,
                "workers": pool.workers,
                "chips": pool.workers * pool.engine.chips,
                "chunk_tokens": pool.chunk_tokens,
            }
            for pool in candidate.pools
        ],
        "chips": candidate.chips,
        "watts": candidate.amount("watts"),
        "usd_per_hour": candidate.amount("money"),
        "goodput_rps": _interval(finalist.goodput),
        "goodput_per": {UNITS[unit]: finalist.per(unit) for unit in UNITS},
        "estimate_rps": candidate.estimate.rate_rps,
        "binds": finalist.binds,
        "link_bytes_per_s": None if candidate.link is None else candidate.link.bandwidth_bytes_per_s,
        "usd_per_million_tokens": _token_price(finalist),
        "at_goodput": None if finalist.at is None else _probe(finalist.at),
        "use": [asdict(use) for use in phase_uses(finalist, plan.shape)],
        WORST_CALLS: session_s(finalist, plan),
    }


def session_s(finalist: Finalist, plan: Plan) -> float | None:
    """Latencies of all calls of a session one after another: they add up (latency model §5)."""
    at = finalist.at
    if at is None or not plan.sessions:
        return None
    return plan.calls * (at.ttft_p50_s + max(0.0, plan.shape.output_tokens - 1) * at.tpot_p50_s)


def _token_price(finalist: Finalist) -> float | None:
    money = finalist.candidate.amount("money")
    at = finalist.at
    if money is None or at is None or at.output_tokens_per_s <= 0:
        return None
    return money / (at.output_tokens_per_s * 3600) * 1e6


def _probe(probe: Probe) -> dict[str, Any]:
    return asdict(probe)


def _interval(found: Interval) -> dict[str, Any]:
    return asdict(found)
