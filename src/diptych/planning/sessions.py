"""Requests that wait for an earlier one of their session.

Knows: who runs, who waits, when the last one ended. Does not know: time passing.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from diptych.workload.record import Arrival


@dataclass(slots=True)
class _Session:
    running: int = 0
    ended_s: float = 0.0
    queue: deque[Arrival] = field(default_factory=deque[Arrival])


class Sessions:
    """A request with a delay starts that long after the session's request before it has ended."""

    def __init__(self) -> None:
        self._sessions: dict[str, _Session] = {}
        self.waiting = 0
        """Requests that have not started, or are about to."""

    def hold(self, arrival: Arrival) -> float | None:
        """When a request of a session, now due, may start; None: `ended` will return it."""
        session = self._sessions.setdefault(arrival.session_id or "", _Session())
        if arrival.delay_s is None:
            session.running += 1
            return arrival.t_s
        if session.running or session.queue:
            session.queue.append(arrival)
            self.waiting += 1
            return None
        session.running += 1
        return max(arrival.t_s, session.ended_s + arrival.delay_s)

    def ended(self, arrival: Arrival, now_s: float) -> tuple[float, Arrival] | None:
        """A request has ended: who starts next, and when."""
        session = self._sessions.get(arrival.session_id or "")
        if arrival.session_id is None or session is None:
            return None
        session.running -= 1
        session.ended_s = now_s
        if session.running or not session.queue:
            return None
        following = session.queue.popleft()
        self.waiting -= 1
        session.running += 1
        return max(following.t_s, now_s + (following.delay_s or 0.0)), following
