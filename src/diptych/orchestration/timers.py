"""Deadlines by name.

Knows: which deadline comes next. Does not know: what it is for, clocks.
"""

from __future__ import annotations

from enum import StrEnum
from heapq import heappop, heappush
from math import inf
from typing import Final, NamedTuple


class Timer(StrEnum):
    """What a deadline is about."""

    HEARTBEAT = "heartbeat"
    STALL = "stall"
    RETRY = "retry"
    """A worker that refused may be asked again."""
    QUEUE = "queue"
    ATTEMPT = "attempt"
    """The present stage of an attempt takes too long."""
    NO_WORKER = "no_worker"


class TimerKey(NamedTuple):
    """One deadline: ``name`` is a worker or a request, ``number`` an attempt."""

    timer: Timer
    name: str = ""
    number: int = 0


STALE_ENTRIES: Final = 256
"""So many may lie in the heap beside as many as are live."""


class Timers:
    """A heap that tolerates stale entries: moving a deadline later costs nothing until the old time comes.

    A deadline at infinity never comes and is not kept.
    """

    def __init__(self) -> None:
        self._due_s: dict[TimerKey, float] = {}
        self._queued_s: dict[TimerKey, float] = {}
        self._heap: list[tuple[float, TimerKey]] = []
        self.earliest_s = inf
        """No deadline comes before this. To be read only; cheaper than `next_s`."""

    def __len__(self) -> int:
        """Entries that take up memory, stale ones included."""
        return len(self._heap)

    def __contains__(self, key: TimerKey) -> bool:
        return key in self._due_s

    def set(self, key: TimerKey, t_s: float) -> None:
        """Set or move a deadline."""
        if t_s == inf:
            self.cancel(key)
            return
        self._due_s[key] = t_s
        queued_s = self._queued_s.get(key)
        if queued_s is None or t_s < queued_s:
            self._queued_s[key] = t_s
            heappush(self._heap, (t_s, key))
            if t_s < self.earliest_s:
                self.earliest_s = t_s

    def cancel(self, key: TimerKey) -> None:
        """Forget a deadline; an unknown one is fine."""
        known = self._due_s.pop(key, None) is not None
        if known and len(self._heap) > 2 * len(self._due_s) + STALE_ENTRIES:
            self._compact()

    def postpone(self, timer: Timer, by_s: float) -> None:
        """Move all deadlines of this kind later."""
        for key in self._due_s:
            if key.timer is timer:
                self._due_s[key] += by_s

    def next_s(self) -> float | None:
        """The earliest deadline."""
        self._settle()
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now_s: float) -> TimerKey | None:
        """Remove and return the earliest deadline that has passed; ties by key."""
        if self.earliest_s > now_s:
            return None
        self._settle()
        if self.earliest_s > now_s:
            return None
        _, key = heappop(self._heap)
        self.earliest_s = self._heap[0][0] if self._heap else inf
        del self._queued_s[key]
        del self._due_s[key]
        return key

    def _settle(self) -> None:
        """Bring the top of the heap in line with the deadlines as they are now."""
        self.earliest_s = inf
        while self._heap:
            t_s, key = self._heap[0]
            if self._queued_s.get(key) == t_s == self._due_s.get(key):
                self.earliest_s = t_s
                return
            heappop(self._heap)
            if self._queued_s.get(key) != t_s:
                continue
            del self._queued_s[key]
            if key in self._due_s:
                self._queued_s[key] = self._due_s[key]
                heappush(self._heap, (self._due_s[key], key))

    def _compact(self) -> None:
        """Keep live entries only. Most deadlines are cancelled long before their time: without this, each
        would stay until then. As rare as it is dear: its cost for each cancelled one does not grow."""
        self._queued_s = dict(self._due_s)
        self._heap = sorted([(t_s, key) for key, t_s in self._due_s.items()])  # a sorted list is a heap
        self.earliest_s = self._heap[0][0] if self._heap else inf
