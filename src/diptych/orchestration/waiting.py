"""The cluster's queue: requests that have no place yet.

Knows: their order and their prompt tokens. Does not know: why they wait.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from diptych.domain.ids import RequestId
from diptych.orchestration.jobs import Job, JobOrder


class WaitingQueue:
    """Sorted by (priority, arrival, name): a resumed request stands where it stood."""

    def __init__(self) -> None:
        self._order: list[JobOrder] = []
        self._jobs: dict[RequestId, Job] = {}
        self.prompt_tokens = 0

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._jobs

    def __iter__(self) -> Iterator[Job]:
        """In order, over a copy: the queue may change meanwhile."""
        for *_, request_id in tuple(self._order):
            if request_id in self._jobs:
                yield self._jobs[request_id]

    def add(self, job: Job) -> None:
        """Let it wait."""
        insort(self._order, job.order)
        self._jobs[job.request_id] = job
        self.prompt_tokens += len(job.request.prompt_token_ids)

    def remove(self, job: Job) -> None:
        """It has a place, or has ended. Absent ones are fine."""
        if self._jobs.pop(job.request_id, None) is None:
            return
        del self._order[bisect_left(self._order, job.order)]
        self.prompt_tokens -= len(job.request.prompt_token_ids)
