"""Goodput per chip, per watt and per dollar against TPOT: which candidates no other one beats in both.

Knows: fronts. Does not know: where points come from beyond closed forms scaled to simulation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from diptych.planning.search.bounds import Bounds, Question
from diptych.planning.search.engine import Engine
from diptych.planning.search.finalist import Finalist
from diptych.planning.search.targets import BudgetUnit

TPOT_FACTORS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8)
"""TPOT targets for which the front is drawn, over the given one."""

UNITS: tuple[BudgetUnit, ...] = ("devices", "watts", "money")


@dataclass(frozen=True)
class Point:
    """One candidate at one TPOT."""

    tpot_s: float
    goodput_per: float
    kind: str
    name: str
    source: str
    """'simulated' (TPOT is the measured 90th percentile) or 'estimate' (it is the target)."""
    on_front: bool = False


def fronts(
    finalists: Sequence[Finalist], engines: Sequence[Engine], question: Question, factors: dict[str, float]
) -> dict[str, tuple[Point, ...]]:
    """By unit. ``factors``: simulated over estimated goodput, by kind."""
    estimated = _estimates(engines, question, factors)
    found: dict[str, tuple[Point, ...]] = {}
    for unit in UNITS:
        points = [
            Point(
                finalist.at.tpot_p90_s, value, finalist.candidate.kind, finalist.candidate.name, "simulated"
            )
            for finalist in finalists
            if finalist.at is not None and (value := finalist.per(unit)) is not None
        ]
        for tpot_s, kind, name, rate, amounts in estimated:
            amount = amounts[unit]
            if amount:
                points.append(Point(tpot_s, rate / amount, kind, name, "estimate"))
        found[unit] = mark_front(points)
    return found


def mark_front(points: Sequence[Point]) -> tuple[Point, ...]:
    """By rising TPOT; on the front: no other point of the same source has both a lower TPOT and more
    goodput."""
    marked: list[Point] = []
    best: dict[str, float] = {}
    for point in sorted(points, key=lambda it: (it.tpot_s, -it.goodput_per, it.name)):
        front = point.goodput_per > best.get(point.source, 0.0)
        if front:
            best[point.source] = point.goodput_per
        marked.append(replace(point, on_front=front))
    return tuple(marked)


def _estimates(
    engines: Sequence[Engine], question: Question, factors: dict[str, float]
) -> list[tuple[float, str, str, float, dict[BudgetUnit, float | None]]]:
    found = []
    for factor in TPOT_FACTORS:
        tpot_s = question.targets.tpot_s * factor
        bounds = Bounds(engines, replace(question, targets=replace(question.targets, tpot_s=tpot_s)))
        for candidates in (bounds.unsplit(), bounds.splits()):
            for best in candidates[:1]:
                rate = best.estimate.rate_rps * factors.get(best.kind, 1.0)
                if rate > 0:
                    amounts = {unit: best.amount(unit) for unit in UNITS}
                    found.append((tpot_s, best.kind, best.name, rate, amounts))
    return found
