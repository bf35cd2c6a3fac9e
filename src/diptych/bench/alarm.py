"""Waking at a moment, to a tenth of a millisecond.

Knows: threads, the running event loop. Does not know: what happens then. Timers of event loops (uvloop's, and
epoll's under asyncio) count whole milliseconds; a schedule that they keep is off by half of one on average.
"""

from __future__ import annotations

import asyncio
import heapq
import threading
from itertools import count
from types import TracebackType

from diptych.domain.clock import Clock

_Waiting = tuple[float, int, "asyncio.Future[None]"]


class Alarm:
    """Wakes any number of waiters of one event loop. A context manager."""

    def __init__(self, clock: Clock) -> None:
        self._now_s = clock.now_s
        self._loop = asyncio.get_running_loop()
        self._waiting: list[_Waiting] = []
        self._numbers = count()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="bench alarm", daemon=True)

    def __enter__(self) -> Alarm:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it; who still waits is not woken."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    async def until(self, at_s: float) -> None:
        """Return once the clock shows ``at_s``."""
        if self._now_s() >= at_s:
            return
        future: asyncio.Future[None] = self._loop.create_future()
        with self._changed:
            item = (at_s, next(self._numbers), future)
            heapq.heappush(self._waiting, item)
            if self._waiting[0] is item:
                self._changed.notify()
        await future

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                now_s = self._now_s()
                while self._waiting and self._waiting[0][0] <= now_s:
                    self._loop.call_soon_threadsafe(_wake, heapq.heappop(self._waiting)[2])
                self._changed.wait(self._waiting[0][0] - now_s if self._waiting else None)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
