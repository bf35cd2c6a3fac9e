"""How much do the workers of one host slow each other in service?

Prompts and batches that are measured beside one another on an otherwise still machine say it wrongly: alone,
such a worker has the caches for itself as it never has them in service. So it is read off a load, in which
steps beside another worker's and steps without take turns within tenths of a second. Both are compared within
the same moment: while the machine is slow, workers are busy for longer, and more steps are beside another's.

Knows: steps that overlap. Does not know: how the load was made, why company costs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean, median

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
"""Of each kind in the same moments; fewer say nothing."""


def contention(own: Sequence[Step], others: Sequence[Step], model: StepModel, context_tokens: int) -> float:
    """Times as long as ``model`` says beside ``others``, over the same without them; at least 1.

    ``own`` and ``others``: steps of different workers of one host. ``context_tokens``: of a sequence that
    decodes, on average.
    """
    moments: dict[int, _Moment] = defaultdict(_Moment)
    company = Company(others)
    for step in own:
        share = company.share(step)
        if share >= BESIDE:
            moments[step.moment].beside.append(step.taken_s / step.expected_s(model, context_tokens))
        elif share <= FREE:
            moments[step.moment].free.append(step.taken_s / step.expected_s(model, context_tokens))
    weight = sum(moment.weight for moment in moments.values())
    if weight < LEAST_STEPS / 2:
        return 1.0
    beside = sum(moment.weight * fmean(moment.beside) for moment in moments.values() if moment.weight)
    free = sum(moment.weight * fmean(moment.free) for moment in moments.values() if moment.weight)
    return max(1.0, beside / free)


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


class _Moment:
    """Taken over expected, of steps beside another worker's and of steps without."""

    def __init__(self) -> None:
        self.beside: list[float] = []
        self.free: list[float] = []

    @property
    def weight(self) -> float:
        """What the ratio of both means is worth: half of the steps where there are as many of each, nothing
        where there are only steps of one kind."""
        beside, free = len(self.beside), len(self.free)
        return beside * free / (beside + free) if beside and free else 0.0
