"""The rows of a profile's tables, set right by what steps in service took.

A table is measured with a few steps of each size on an idle cluster, some seconds apart. A machine that was
slow just then leaves a dent in it, and a dent among the small batches makes every larger one appear cheap: a
simulated worker then gathers other batches than the real one. A load has hundreds of steps of all the sizes
that matter, and they come in turns.

A load has its own trap: while the machine is slow, requests gather, and large batches are seen then most of
all. So steps are compared with others of the same moment only.

Knows: tables, steps of known size and what they took. Does not know: where they come from, workers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from diptych.domain.fleet import ProfileSpec
from diptych.performance.steps import Chunk, FittedSteps, StepModel

PRIOR_MOMENTS = 4
"""A row moves half of the way if it was seen in so many moments: steps of one are alike, and on a shared
machine those of another are off by about a fifth, a row of a calibration by a tenth."""

ROUNDS = 30
"""Of moving all rows: a step between two rows moves both, and each less once the other has moved."""

Rows: TypeAlias = tuple[tuple[int, float], ...]
"""(count, seconds) by rising counts."""


class Served(NamedTuple):
    """One step, and the seconds that it took. ``moment``: equal for steps at about the same time."""

    moment: int
    chunks: tuple[Chunk, ...]
    decodes: int
    context_tokens: int
    taken_s: float

    @property
    def prefill_tokens(self) -> int:
        """Of all prompts together."""
        return sum(chunk.new_tokens for chunk in self.chunks)

    def expected_s(self, model: StepModel) -> float:
        """What ``model`` says of it."""
        return model.step_s(self.chunks, self.decodes, self.context_tokens)


def with_rows(before: ProfileSpec, served: Sequence[Served]) -> ProfileSpec:
    """``before`` with the rows of its tables moved until, around each, the profile has as many seconds as the
    steps at their moment's speed, or the prior holds it. Steps with a prompt count for the table of prompts,
    all others for that of batches."""
    prompts, batches = _Table(before.prefill.by_tokens), _Table(before.decode[0].by_batch)
    for number, step in enumerate(served):
        if step.prefill_tokens:
            prompts.add(number, step.prefill_tokens, step.moment)
        else:
            batches.add(number, step.decodes, step.moment)
    for _ in range(ROUNDS):
        model = FittedSteps(_with(before, prompts, batches))
        expected_s = [step.expected_s(model) for step in served]
        usual_s = _at_usual_speed(served, expected_s)
        prompts.move(usual_s, expected_s)
        batches.move(usual_s, expected_s)
    return _with(before, prompts, batches)


def _at_usual_speed(served: Sequence[Served], expected_s: Sequence[float]) -> list[float]:
    """What each would have taken at the profile's speed, if its moment had the same for all."""
    taken: dict[int, float] = defaultdict(float)
    expected: dict[int, float] = defaultdict(float)
    for step, seconds in zip(served, expected_s, strict=True):
        taken[step.moment] += step.taken_s
        expected[step.moment] += seconds
    return [step.taken_s * expected[step.moment] / taken[step.moment] for step in served]


def _with(before: ProfileSpec, prompts: _Table, batches: _Table) -> ProfileSpec:
    first, *others = before.decode
    return before.model_copy(
        update={
            "prefill": before.prefill.model_copy(update={"by_tokens": prompts.moved}),
            "decode": (first.model_copy(update={"by_batch": batches.moved}), *others),
        }
    )


class _Table:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._keys = [key for key, _ in rows]
        self._factors = [1.0] * len(rows)
        self._near: list[list[tuple[int, float]]] = [[] for _ in rows]
        """Numbers of the steps near each row, and their weights."""
        self._moments: list[dict[int, float]] = [{} for _ in rows]

    def add(self, number: int, count: int, moment: int) -> None:
        for row, weight in _beside(self._keys, count):
            if weight:
                self._near[row].append((number, weight))
                moments = self._moments[row]
                moments[moment] = moments.get(moment, 0.0) + weight

    def move(self, taken_s: Sequence[float], expected_s: Sequence[float]) -> None:
        """``taken_s`` and ``expected_s``: of all steps, with the rows as `moved` has them."""
        for row, near in enumerate(self._near):
            if near:
                taken = sum(weight * taken_s[number] for number, weight in near)
                expected = sum(weight * expected_s[number] for number, weight in near)
                prior = PRIOR_MOMENTS / _independent(self._moments[row]) * expected / self._factors[row]
                self._factors[row] *= (taken + prior) / (expected + prior * self._factors[row])

    @property
    def moved(self) -> Rows:
        return tuple(
            (key, seconds * factor) for (key, seconds), factor in zip(self._rows, self._factors, strict=True)
        )


def _independent(moments: Mapping[int, float]) -> float:
    """How many moments of equal weight would say as much (Kish's effective sample size)."""
    return sum(moments.values()) ** 2 / sum(weight * weight for weight in moments.values())


def _beside(keys: Sequence[int], count: int) -> list[tuple[int, float]]:
    """The rows that a count lies between, each with its share; none beyond the outer rows, where the table
    goes on in the direction of the last two and moves by a multiple of what the outer one does."""
    if not keys or not keys[0] <= count <= keys[-1]:
        return []
    right = min(bisect_right(keys, count), len(keys) - 1)
    low, high = keys[right - 1], keys[right]
    share = (count - low) / (high - low)
    return [(right - 1, 1 - share), (right, share)]
