"""How much do the workers of one host slow each other in service?

Prompts and batches that are measured beside one another on an otherwise still machine say it wrongly: alone,
such a worker has the caches for itself as it never has them in service. So it is read off a load, in which
steps beside another worker's and steps without take turns within tenths of a second.

Knows: steps that overlap. Does not know: how the load was made, why company costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from diptych.bench.house.company import Company
from diptych.bench.house.profiles import with_profiles
from diptych.bench.house.steps import Step
from diptych.domain.cluster import ClusterSpec, PoolSpec
from diptych.domain.fleet import ProfileSpec
from diptych.domain.ids import WorkerId
from diptych.performance.steps import FittedSteps, StepModel

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
    company = Company(others)
    for step in own:
        share = company.share(step)
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
        self.steps += 1
        self._taken_s += step.taken_s
        self._expected_s += step.expected_s(self._model, self._context_tokens)

    @property
    def ratio(self) -> float:
        return self._taken_s / self._expected_s
