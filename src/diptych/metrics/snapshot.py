"""The cluster at one moment, as figures: what a driver fills in and every view of the cluster reads.

Knows: load and state of workers, queue lengths. Does not know: how they were found, who shows them.
"""

from __future__ import annotations

import msgspec

from diptych.domain.ids import WorkerId
from diptych.domain.worker import Role, WorkerStats


class WorkerSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One worker. While it is down, ``stats`` are the last that it sent."""

    worker_id: WorkerId
    pool: str
    role: Role
    incarnation: int
    up: bool
    """Whether this incarnation is joined and can be given work."""
    restarts: int = 0
    arena_blocks: int = 0
    block_tokens: int = 0
    block_bytes: int = 0
    device: str = "cpu"
    start_s: dict[str, float] = {}
    """Seconds of each stage of this incarnation's start; empty until it is ready."""
    stats: WorkerStats = WorkerStats()


class ClusterSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All workers, in order of their ids, and the requests that have not ended."""

    workers: tuple[WorkerSnapshot, ...] = ()
    waiting_requests: int = 0
    """Requests in state queued."""
    waiting_tokens: int = 0
    """Their prompt tokens."""
    running_requests: int = 0
    """Requests in state prefilling, handing_off or decoding."""
    bounces_total: int = 0
    """Attempts that were given back because KV memory was full."""
