"""The rows of a profile's tables, set right by what steps in service took.

A table is measured with a few steps of each size on an idle cluster, some seconds apart. A machine that was
slow just then leaves a dent in it, and a dent among the small batches makes every larger one appear cheap: a
simulated worker then gathers other batches than the real one. A load has hundreds of steps of all the sizes
that matter, and they come in turns.

Knows: tables, steps of known size and what they took. Does not know: where they come from, workers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from diptych.domain.fleet import ProfileSpec
from diptych.performance.steps import Chunk, FittedSteps, StepModel

PRIOR_STEPS = 4
"""A row moves half of the way if so many steps are at it: on a shared machine one step is off by about a
fifth, a row of a calibration by a tenth, and so is the mean of four steps."""

ROUNDS = 12
"""Of moving all rows: a step between two rows moves both, and each less once the other has moved."""

Rows: TypeAlias = tuple[tuple[int, float], ...]
"""(count, seconds) by rising counts."""


class Served(NamedTuple):
    """One step, and the seconds that it took."""

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
    steps, or the prior holds it. Steps with a prompt count for the table of prompts, all others for that of
    batches."""
    model = FittedSteps(before)
    prompts = _Table(before.prefill.by_tokens)
    batches = _Table(before.decode[0].by_batch)
    for step in served:
        if step.prefill_tokens:
            prompts.add(step.prefill_tokens, step, model)
        else:
            batches.add(step.decodes, step, model)
    for _ in range(ROUNDS):
        model = FittedSteps(_with(before, prompts, batches))
        prompts.move(model)
        batches.move(model)
    return _with(before, prompts, batches)


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
        self._near: list[tuple[int, float, Served]] = []
        self._steps = [0.0] * len(rows)
        self._taken_s = [0.0] * len(rows)
        self._before_s = [0.0] * len(rows)

    def add(self, count: int, step: Served, model: StepModel) -> None:
        for row, weight in _beside(self._keys, count):
            self._near.append((row, weight, step))
            self._steps[row] += weight
            self._taken_s[row] += weight * step.taken_s
            self._before_s[row] += weight * step.expected_s(model)

    def move(self, model: StepModel) -> None:
        """``model``: with the rows as `moved` has them."""
        expected_s = [0.0] * len(self._rows)
        for row, weight, step in self._near:
            expected_s[row] += weight * step.expected_s(model)
        for row, steps in enumerate(self._steps):
            if steps and expected_s[row]:
                prior_s = PRIOR_STEPS * self._before_s[row] / steps
                wanted_s = self._taken_s[row] + prior_s
                self._factors[row] *= wanted_s / (expected_s[row] + prior_s * self._factors[row])

    @property
    def moved(self) -> Rows:
        return tuple(
            (key, seconds * factor) for (key, seconds), factor in zip(self._rows, self._factors, strict=True)
        )


def _beside(keys: Sequence[int], count: int) -> list[tuple[int, float]]:
    """The rows that a count lies between, each with its share; none beyond the outer rows, where the table
    goes on in the direction of the last two and moves by a multiple of what the outer one does."""
    if not keys or not keys[0] <= count <= keys[-1]:
        return []
    right = min(bisect_right(keys, count), len(keys) - 1)
    low, high = keys[right - 1], keys[right]
    share = (count - low) / (high - low)
    return [(right - 1, 1 - share), (right, share)]
