"""What live placement would believe of the simulated workers.

Knows: each worker's `StepModel`. Does not know: policies.
"""

from __future__ import annotations

from diptych.domain.cluster import ClusterSpec
from diptych.performance.estimate import CostModel, ObservedCost
from diptych.planning.fleet import Fleet


def placement_cost(spec: ClusterSpec, fleet: Fleet) -> CostModel:
    """The cost model of the orchestrator."""
    del spec, fleet
    return ObservedCost()
