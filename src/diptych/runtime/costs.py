"""What placement believes of the workers when the cluster starts.

Knows: that a measured profile in the spec beats guessing. Does not know: how placement uses it.
"""

from __future__ import annotations

from collections.abc import Sequence

from diptych.domain.cluster import ClusterSpec
from diptych.performance.estimate import CostModel, ObservedCost
from diptych.performance.profiled import Profiled, ProfiledCost
from diptych.performance.steps import FittedSteps
from diptych.runtime.dealing import WorkerShare


def cost_model(spec: ClusterSpec, shares: Sequence[WorkerShare]) -> CostModel:
    """From the pools' profiles if all have one, else from observation alone."""
    profiles = {pool.name: pool.profile for pool in spec.pools if pool.profile is not None}
    if len(profiles) < len(spec.pools):
        return ObservedCost()
    models = {name: FittedSteps(profile) for name, profile in profiles.items()}
    return ProfiledCost(
        {
            share.worker_id: Profiled(
                models[share.pool.name],
                share.pool.token_budget if share.pool.chunked_prefill else None,
                profiles[share.pool.name].handoff_fixed_s,
                profiles[share.pool.name].handoff_per_token_s,
            )
            for share in shares
        }
    )
