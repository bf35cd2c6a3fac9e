"""Workers that share one machine slow each other down.

Knows: who computes, by which factor company slows each. Does not know: why (memory bandwidth, caches,
clocks).
"""

from __future__ import annotations

from collections.abc import Mapping

from diptych.domain.ids import WorkerId
from diptych.planning.worker import VirtualWorker


class Host:
    """``factors``: on a worker's steps while any other worker computes."""

    def __init__(self, factors: Mapping[WorkerId, float]) -> None:
        self._factors = factors
        self.workers: tuple[VirtualWorker, ...] = ()

    def share(self, now_s: float) -> bool:
        """Set everyone's speed by who computes now; whether anything changed."""
        busy = [worker for worker in self.workers if worker.busy]
        changed = False
        for worker in busy:
            company = self._factors[worker.info.worker_id] if len(busy) > 1 else 1.0
            if worker.company != company:
                worker.set_company(company, now_s)
                changed = True
        return changed
