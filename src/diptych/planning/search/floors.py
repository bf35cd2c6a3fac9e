"""What no amount of hardware of the given kinds can beat.

Knows: the fastest engine for a lone prompt and a lone sequence. Does not know: queues, budgets beyond counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from diptych.domain.errors import SpecError
from diptych.planning.search.bounds import PREFILL_CHUNK
from diptych.planning.search.engine import Engine
from diptych.planning.search.shape import Shape
from diptych.planning.search.targets import Budget, Targets

MARGIN = 1.05
"""The nearest target that is offered lies so far above the floor: at the floor itself nothing may wait."""


@dataclass(frozen=True)
class Floors:
    """Unloaded times that ``share`` of the requests need at least, and who reaches them."""

    ttft_s: float
    ttft_engine: str
    tpot_s: float
    tpot_engine: str


def floors(engines: Sequence[Engine], shape: Shape, share: float) -> Floors:
    """Of the fastest engine for each phase."""
    firsts = [(_ttft_floor_s(engine, shape, share), engine.name) for engine in engines]
    gaps = [(engine.decode_s(1, shape.context_tokens), engine.name) for engine in engines]
    (ttft_s, ttft_engine), (tpot_s, tpot_engine) = min(firsts), min(gaps)
    return Floors(ttft_s, ttft_engine, tpot_s, tpot_engine)


def check_floors(found: Floors, targets: Targets) -> None:
    """Raise `SpecError` for a target that even an idle cluster would miss."""
    for flag, wanted_s, floor_s, engine, what in (
        ("--ttft", targets.ttft_s, found.ttft_s, found.ttft_engine, "prefill of the prompts"),
        ("--tpot", targets.tpot_s, found.tpot_s, found.tpot_engine, "a decode step of one sequence"),
    ):
        if wanted_s < floor_s:
            raise SpecError(
                f"{flag} {wanted_s:g}: below the physical floor of {floor_s:.3g} s: {what} takes so long "
                f"for {targets.share:.0%} of the requests on the fastest idle engine that the budget pays "
                f"for ({engine}); give faster hardware, or the nearest feasible: {flag} "
                f"{_rounded_up(floor_s * MARGIN)}"
            )


def check_budget(engines: Sequence[Engine], budget: Budget) -> list[Engine]:
    """The engines that the budget pays for at least once. Raises `SpecError` if there is none."""
    priced = [engine for engine in engines if engine.amount(budget.unit)]
    if not priced:
        remedy = {
            "money": "give --rent CHIP=USD_PER_HOUR",
            "watts": "choose hardware with a published power",
            "devices": "choose other hardware",
        }[budget.unit]
        names = ", ".join(sorted({engine.chip for engine in engines}))
        raise SpecError(
            f"{budget.flag}: no {budget.unit} figure is known of {names}; {remedy}, or use --budget-devices"
        )
    affordable = [
        engine for engine in priced if (engine.amount(budget.unit) or 0) <= budget.limit * (1 + 1e-9)
    ]
    if not _whole(affordable):
        least = min(_whole(priced), key=lambda engine: engine.amount(budget.unit) or 0)
        why = "; engines with capped power only decode" if affordable else ""
        raise SpecError(
            f"{budget.flag} {budget.limit:g}: pays for no engine that holds the model; the smallest is one "
            f"{least.name}, so at least {budget.flag} {_rounded_up(least.amount(budget.unit) or 0)}{why}"
        )
    return affordable


def _whole(engines: Sequence[Engine]) -> list[Engine]:
    """Those that can do both phases: a plan needs one for its baseline."""
    return [engine for engine in engines if engine.uncapped is None]


def check_memory(engines: Sequence[Engine], shape: Shape) -> list[Engine]:
    """The engines whose KV memory holds the longest request. Raises `SpecError` if there is none."""
    longest = max(row.new_tokens + row.cached_tokens + row.output_tokens for row in shape.rows)
    able = [engine for engine in engines if engine.steps.kv_tokens >= longest]
    if not _whole(able):
        most = max(engines, key=lambda engine: engine.steps.kv_tokens)
        raise SpecError(
            f"--hardware: no engine within the budget holds a request of {longest:,} tokens; {most.name} "
            f"holds {most.steps.kv_tokens:,} tokens of KV: give a larger budget, other hardware or --kv fp8"
        )
    return able


def _ttft_floor_s(engine: Engine, shape: Shape, share: float) -> float:
    alone = sorted(engine.prefill_s(row.new_tokens, row.cached_tokens, PREFILL_CHUNK) for row in shape.rows)
    return alone[min(len(alone), ceil(share * len(alone))) - 1]


def _rounded_up(value: float) -> str:
    """Two or three digits, never below ``value``."""
    if value >= 100:
        return f"{ceil(value):g}"
    digits = 1
    while value * 10**digits < 10:
        digits += 1
    return f"{ceil(value * 10**digits) / 10**digits:g}"
