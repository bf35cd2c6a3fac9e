"""Which engine a cluster runs, from the command line's word for it.

Knows: that a modelled engine takes its speeds from the spec's pools. Does not know: how either kind works.
"""

from __future__ import annotations

from typing import Literal

from diptych.domain.cluster import ClusterSpec
from diptych.planning.fleet import build_fleet
from diptych.planning.tabulate import tabulate
from diptych.runtime.engines import EngineName, ModelledPools


def engine_of(spec: ClusterSpec, word: Literal["native", "modelled"]) -> EngineName:
    """Raises `SpecError` when a pool of a modelled cluster says nothing of its speed."""
    if word == "native":
        return "native"
    fleet = build_fleet(spec)
    profiles = {member.pool.name: tabulate(member.model, member.pool) for member in fleet.members}
    return ModelledPools(profiles=profiles, max_model_tokens=fleet.max_model_tokens)
