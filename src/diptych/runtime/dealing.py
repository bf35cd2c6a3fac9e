"""Who gets which cores and which blocks. Pure arithmetic over a spec.

Knows: pools, cores, arenas. Does not know: processes, the orchestrator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import msgspec

from diptych.domain.cluster import ClusterSpec, PoolSpec
from diptych.domain.errors import SpecError
from diptych.domain.ids import WorkerId
from diptych.domain.kv import KVLayout
from diptych.domain.worker import Arena, Role

MIN_WORKER_BLOCKS = 4
"""Below this a worker cannot even hold one short prompt and its output."""

ARENA_WEIGHT = {Role.PREFILL: 2, Role.DECODE: 1, Role.MIXED: 2}
"""Relative size of a worker's arena. A prompt stays in its prefill worker's arena while it is decoded
elsewhere; the decode worker's own blocks hold outputs, which in most workloads are shorter (mean prompt and
output tokens of the Azure 2023 conversation trace: 1,155 and 211; of Mooncake's: 12,035 and 343)."""


class WorkerShare(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker is given for life."""

    worker_id: WorkerId
    pool: PoolSpec
    arena: Arena
    cores: tuple[int, ...]
    threads: int


def deal(
    spec: ClusterSpec,
    layout: KVLayout,
    machine_cores: Sequence[int],
    arena_blocks: Mapping[str, int] | None = None,
) -> tuple[WorkerShare, ...]:
    """A share for every worker, in the order of the pools. ``arena_blocks``: blocks of a worker by pool,
    instead of a part of the KV memory. Raises `SpecError` when there is too little."""
    names = [(pool, index) for pool in spec.pools for index in range(pool.workers)]
    if arena_blocks is None:
        arenas = _deal_memory(spec.kv.memory_bytes, layout, [pool for pool, _ in names])
    else:
        arenas = _side_by_side([arena_blocks[pool.name] for pool, _ in names])
    cores = deal_cores(spec.pools, machine_cores)
    return tuple(
        WorkerShare(
            worker_id=WorkerId(f"{pool.name}-{index}"),
            pool=pool,
            arena=arena,
            cores=mine,
            threads=pool.threads or max(1, len(mine)),
        )
        for (pool, index), arena, mine in zip(names, arenas, cores, strict=True)
    )


def _deal_memory(memory_bytes: int, layout: KVLayout, pools: Sequence[PoolSpec]) -> tuple[Arena, ...]:
    """An arena for each worker of ``pools``: in memory of its own, or in what the others share."""
    sharing = [pool.role for pool in pools if not pool.own_kv_memory]
    shared = iter(deal_arenas(memory_bytes, layout, sharing) if sharing else ())
    return tuple(
        deal_arenas(memory_bytes, layout, [pool.role])[0] if pool.own_kv_memory else next(shared)
        for pool in pools
    )


def deal_arenas(memory_bytes: int, layout: KVLayout, roles: Sequence[Role]) -> tuple[Arena, ...]:
    """An arena for each worker, side by side, sized by `ARENA_WEIGHT` of its role. Raises `SpecError` when
    one would be too small."""
    weights = [ARENA_WEIGHT[role] for role in roles]
    unit_blocks = memory_bytes // layout.block_bytes // sum(weights)
    if unit_blocks * min(weights) < MIN_WORKER_BLOCKS:
        needed = MIN_WORKER_BLOCKS * sum(weights) * layout.block_bytes
        raise SpecError(
            f"kv.memory_bytes {memory_bytes} gives one of {len(roles)} workers only "
            f"{unit_blocks * min(weights)} blocks of {layout.block_bytes} bytes; set it to at least {needed}"
        )
    return _side_by_side([weight * unit_blocks for weight in weights])


def _side_by_side(sizes: Sequence[int]) -> tuple[Arena, ...]:
    starts = accumulate(sizes, initial=0)
    return tuple(Arena(start=start, blocks=blocks) for start, blocks in zip(starts, sizes, strict=False))


def deal_cores(pools: Sequence[PoolSpec], machine_cores: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Cores of each worker. What a pool names it gets; the rest are dealt out evenly, in order. When there
    are more workers than cores, they take turns. Raises `SpecError` for cores that the machine lacks."""
    named = {core for pool in pools for cores in pool.cores or () for core in cores}
    missing = sorted(named - set(machine_cores))
    if missing:
        raise SpecError(f"cores {missing} are not among this process's cores {list(machine_cores)}")
    left = [core for core in machine_cores if core not in named] or list(machine_cores)
    dealt = iter(_even(left, sum(pool.workers for pool in pools if pool.cores is None)))
    return tuple(
        cores for pool in pools for cores in (pool.cores or tuple(next(dealt) for _ in range(pool.workers)))
    )


def _even(cores: Sequence[int], workers: int) -> list[tuple[int, ...]]:
    if workers > len(cores):
        return [(cores[index % len(cores)],) for index in range(workers)]
    ends = [len(cores) * (index + 1) // workers for index in range(workers)]
    return [tuple(cores[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
