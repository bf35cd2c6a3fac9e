"""The cluster's queue: requests that have no place yet.

Knows: their order and their prompt tokens. Does not know: why they wait.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator

from diptych.domain.ids import RequestId
from diptych.orchestration.jobs import Job, JobOrder


class WaitingQueue:
    """Sorted by (priority, arrival, name): a resumed request stands where it stood."""

    def __init__(self) -> None:
        self.order: list[JobOrder] = []
        self.jobs: dict[RequestId, Job] = {}
        """Both for reading only."""
        self.prompt_tokens = 0
        self.newcomers: list[Job] = []
        """Who came since somebody emptied this list."""
        self.changes = 0
        """How often somebody came or went."""

    def __len__(self) -> int:
        return len(self.order)

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self.jobs

    def __iter__(self) -> Iterator[Job]:
        """In order. The queue may change meanwhile: each step goes to the first behind the last one."""
        place = 0
        while place < len(self.order):
            order = self.order[place]
            yield self.jobs[order[2]]
            place = bisect_right(self.order, order)

    def add(self, job: Job) -> None:
        """Let it wait."""
        self.changes += 1
        self.newcomers.append(job)
        insort(self.order, job.order)
        self.jobs[job.request_id] = job
        self.prompt_tokens += job.prompt_tokens

    def remove(self, job: Job) -> None:
        """It has a place, or has ended. Absent ones are fine."""
        if self.jobs.pop(job.request_id, None) is None:
            return
        self.changes += 1
        del self.order[bisect_left(self.order, job.order)]
        self.prompt_tokens -= job.prompt_tokens
