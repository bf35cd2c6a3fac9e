"""How much of a step is done while another worker of the host computes?

Knows: when steps were under way. Does not know: what that costs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import inf

from diptych.bench.house.steps import Step


class Company:
    """``others``: steps of the other workers."""

    def __init__(self, others: Sequence[Step]) -> None:
        self._spans = _spans(others)

    def share(self, step: Step) -> float:
        """0: nobody else computed; 1: somebody did all the time."""
        return self._shared_s(step) / step.taken_s if step.taken_s > 0 else 0.0

    def _shared_s(self, step: Step) -> float:
        spans = self._spans
        first = max(0, bisect_right(spans, (step.began_s, inf)) - 1)
        last = bisect_right(spans, (step.ended_s, inf))
        return sum(
            max(0.0, min(step.ended_s, end_s) - max(step.began_s, begin_s))
            for begin_s, end_s in spans[first:last]
        )


def _spans(steps: Sequence[Step]) -> list[tuple[float, float]]:
    """When any of ``steps`` was under way: times that do not touch, in order."""
    spans: list[tuple[float, float]] = []
    for begin_s, end_s in sorted((step.began_s, step.ended_s) for step in steps):
        if spans and begin_s <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end_s))
        else:
            spans.append((begin_s, end_s))
    return spans
