"""What can be seen of the orchestrator from outside, at one moment.

Knows: figures for dashboards, metrics and readiness. Does not know: who looks.
"""

from __future__ import annotations

import msgspec

from diptych.domain.ids import WorkerId
from diptych.domain.lifecycle import State
from diptych.domain.worker import WorkerInfo, WorkerStats


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    """One worker that lives or ever lived."""

    info: WorkerInfo
    alive: bool
    usable: bool
    """Alive and not condemned as hanging."""
    stats: WorkerStats
    backlog_tokens: int
    """Prompt tokens sent there and not yet computed."""
    decodes: int
    """Sequences that decode there or have a place reserved."""
    promised_blocks: int
    """Blocks pinned or promised there, by the ledger."""
    cached_blocks: int
    """Blocks that the prefix index can find there."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster at one moment."""

    workers: tuple[WorkerView, ...]
    queued_requests: int
    queued_tokens: int
    requests: dict[State, int]
    """Requests that have not ended, by state."""
    ended: dict[State, int]
    """Requests that have ended since the start, by state."""
    attempts: int
    """Attempts that hold anything, closed ones that wait for a confirmation included."""
    leases: int
    """Leases asked for or granted, and not released."""
    can_serve: bool
    """Whether a worker can be given work (roles are relaxed when one of them has no worker)."""

    @property
    def idle(self) -> bool:
        """Nothing runs, waits or is held."""
        return not (self.requests or self.attempts or self.leases)

    def worker(self, worker_id: WorkerId) -> WorkerView:
        """The view of one worker; raises KeyError if it never joined."""
        for view in self.workers:
            if view.info.worker_id == worker_id:
                return view
        raise KeyError(worker_id)
