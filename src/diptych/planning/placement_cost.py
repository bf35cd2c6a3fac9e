"""What live placement would believe of the simulated workers.

Knows: each worker's `StepModel` and the link. Does not know: policies.
"""

from __future__ import annotations

from diptych.domain.cluster import ClusterSpec
from diptych.performance.estimate import CostModel
from diptych.performance.profiled import Path, Profiled, ProfiledCost
from diptych.planning.fleet import Fleet, Member


def placement_cost(spec: ClusterSpec, fleet: Fleet) -> CostModel:
    """The cost model of the orchestrator: as a calibrated cluster has it."""
    workers = {member.info.worker_id: _known(member) for member in fleet.members}
    path = None if spec.link is None else Path(spec.link, fleet.kv_bytes_per_token, fleet.layers)
    return ProfiledCost(workers, path)


def _known(member: Member) -> Profiled:
    profile = member.pool.profile
    return Profiled(
        member.model,
        member.pool.token_budget if member.pool.chunked_prefill else None,
        profile.handoff_fixed_s if profile is not None else 0.0,
        profile.handoff_per_token_s if profile is not None else 0.0,
    )
