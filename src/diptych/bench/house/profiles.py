"""The profiles of a spec's pools, changed.

Knows: which pools have one. Does not know: what changes, why.
"""

from __future__ import annotations

from collections.abc import Callable

from diptych.domain.cluster import ClusterSpec, PoolSpec
from diptych.domain.fleet import ProfileSpec


def with_profiles(spec: ClusterSpec, change: Callable[[PoolSpec, ProfileSpec], ProfileSpec]) -> ClusterSpec:
    """``spec`` with what ``change`` makes of each pool's profile; pools without one stay as they are."""
    pools = tuple(
        pool if pool.profile is None else pool.model_copy(update={"profile": change(pool, pool.profile)})
        for pool in spec.pools
    )
    return spec.model_copy(update={"pools": pools})
