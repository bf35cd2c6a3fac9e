"""Views of a running cluster: who runs where (for people), how it fares (for metrics).

Knows: what the head knows of its workers. Changes nothing.
"""

from __future__ import annotations

import msgspec

from diptych.domain.cluster import WeightFormat
from diptych.domain.ids import WorkerId
from diptych.domain.kv import KVLayout
from diptych.domain.worker import Role, WorkerStats
from diptych.metrics.snapshot import WorkerSnapshot
from diptych.runtime.supervisor import Slot


class WorkerPlace(msgspec.Struct, frozen=True, kw_only=True):
    """One worker and what it was given."""

    worker_id: WorkerId
    pool: str
    role: Role
    up: bool
    pid: int | None
    incarnation: int
    restarts: int
    last_end: str | None
    """Why its last life ended, if one has."""
    cores: tuple[int, ...]
    threads: int
    kv_tokens: int
    """Tokens whose KV fits into its arena."""
    token_budget: int
    max_running: int
    weights: WeightFormat = "same"
    """In which numbers its linear maps are held; 'same': in those of the KV."""
    torch_device: str = "cpu"
    """Where it computes; its KV lies there, too."""
    engine: dict[str, str]
    """What its engine says of itself: numerics, kernels and the like; empty until it is up."""
    start_s: dict[str, float] = {}
    """Seconds of each stage of its start, in order; empty until it is up."""


class Topology(msgspec.Struct, frozen=True, kw_only=True):
    """The whole cluster."""

    model_dir: str
    engine: str
    domain_id: str
    domain_bytes: int
    block_tokens: int
    block_bytes: int
    kv_dtype: str
    kv_tokens: int
    """Tokens whose KV fits into the memory domain."""
    domain_huge_bytes: int = 0
    """How much of the domain lies on large pages."""
    max_model_tokens: int
    workers: tuple[WorkerPlace, ...]
    start_s: dict[str, float] = {}
    """Seconds of each stage of the start, in order; together they end at the first token."""


def place_of(slot: Slot, layout: KVLayout) -> WorkerPlace:
    """Where one worker runs now."""
    share, incarnation = slot.share, slot.incarnation
    return WorkerPlace(
        worker_id=share.worker_id,
        pool=share.pool.name,
        role=share.pool.role,
        up=incarnation is not None and incarnation.ready,
        pid=incarnation.pid if incarnation is not None else None,
        incarnation=slot.number,
        restarts=slot.restarts,
        last_end=slot.last_end,
        cores=share.cores,
        threads=share.threads,
        kv_tokens=share.arena.blocks * layout.block_tokens,
        token_budget=share.pool.token_budget,
        max_running=share.pool.max_running,
        weights=share.pool.weights,
        torch_device=share.pool.torch_device,
        engine=incarnation.description if incarnation is not None else {},
        start_s=incarnation.start_s if incarnation is not None else {},
    )


def snapshot_of(slot: Slot, layout: KVLayout, stats: WorkerStats) -> WorkerSnapshot:
    """How one worker fares now; ``stats`` are the last that it sent."""
    share, incarnation = slot.share, slot.incarnation
    return WorkerSnapshot(
        worker_id=share.worker_id,
        pool=share.pool.name,
        role=share.pool.role,
        incarnation=slot.number,
        up=incarnation is not None and incarnation.ready,
        restarts=slot.restarts,
        arena_blocks=share.arena.blocks,
        block_tokens=layout.block_tokens,
        block_bytes=layout.block_bytes,
        start_s=incarnation.start_s if incarnation is not None else {},
        stats=stats,
    )
