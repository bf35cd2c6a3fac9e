"""How much do the workers of one host slow each other in service?

Prompts and batches that are measured beside one another on an otherwise still machine say it wrongly: alone,
such a worker has the caches for itself as it never has them in service. So it is read off a load, in which
steps beside another worker's and steps without take turns within tenths of a second.

Knows: steps that overlap. Does not know: how the load was made, why company costs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from math import inf
from statistics import median

from diptych.bench.house.profiles import with_profiles
from diptych.bench.house.steps import Step
from diptych.domain.cluster import ClusterSpec, PoolSpec
from diptych.domain.fleet import ProfileSpec
from diptych.domain.ids import WorkerId
from diptych.performance.steps import Chunk, FittedSteps, StepModel

BESIDE, FREE = 0.75, 0.25
"""Shares of a step during which another worker computes: from the one on it counts as beside, up to the other
one as free."""

LEAST_STEPS = 10
"""Of each kind; fewer say nothing."""


def contention(own: Sequence[Step], others: Sequence[Step], model: StepModel, context_tokens: int) -> float:
    """Times as long as ``model`` says beside ``others``, over the same without them; at least 1.

    ``own`` and ``others``: steps of different workers of one host. ``context_tokens``: of a sequence that
    decodes, on average.
    """
    beside, free = _Slower(model, context_tokens), _Slower(model, context_tokens)
    spans = _spans(others)
    for step in own:
        share = _shared_s(step, spans) / step.taken_s if step.taken_s > 0 else 0.0
        if share >= BESIDE:
            beside.add(step)
        elif share <= FREE:
            free.add(step)
    if min(beside.steps, free.steps) < LEAST_STEPS:
        return 1.0
    return max(1.0, beside.ratio / free.ratio)


def with_contention(
    spec: ClusterSpec, steps: Sequence[Step], pools: Mapping[WorkerId, str], context_tokens: int
) -> ClusterSpec:
    """``spec`` with the `contention` of each pool that has a profile: the median over its workers. ``pools``:
    each worker's."""

    def profile(pool: PoolSpec, before: ProfileSpec) -> ProfileSpec:
        model = FittedSteps(before)
        found = [
            contention(
                [step for step in steps if step.worker_id == worker],
                [step for step in steps if step.worker_id != worker],
                model,
                context_tokens,
            )
            for worker, its_pool in pools.items()
            if its_pool == pool.name
        ]
        return before.model_copy(update={"contended_factor": median(found)})

    return with_profiles(spec, profile)


class _Slower:
    def __init__(self, model: StepModel, context_tokens: int) -> None:
        self.steps = 0
        self._model = model
        self._context_tokens = context_tokens
        self._taken_s = self._expected_s = 0.0

    def add(self, step: Step) -> None:
        chunks = (Chunk(step.prefill_tokens, 0),) if step.prefill_tokens else ()
        context_tokens = step.decode_tokens * self._context_tokens
        self.steps += 1
        self._taken_s += step.taken_s
        self._expected_s += self._model.step_s(chunks, step.decode_tokens, context_tokens)

    @property
    def ratio(self) -> float:
        return self._taken_s / self._expected_s


def _spans(steps: Sequence[Step]) -> list[tuple[float, float]]:
    """When any of ``steps`` was under way: times that do not touch, in order."""
    spans: list[tuple[float, float]] = []
    for begin_s, end_s in sorted((step.began_s, step.ended_s) for step in steps):
        if spans and begin_s <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end_s))
        else:
            spans.append((begin_s, end_s))
    return spans


def _shared_s(step: Step, spans: Sequence[tuple[float, float]]) -> float:
    first = max(0, bisect_right(spans, (step.began_s, inf)) - 1)
    last = bisect_right(spans, (step.ended_s, inf))
    return sum(
        max(0.0, min(step.ended_s, end_s) - max(step.began_s, begin_s))
        for begin_s, end_s in spans[first:last]
    )
