"""An asyncio event loop whose time jumps from one timer to the next, for the real driver in virtual time.

Knows: ready callbacks, timers, their order. Does not know: sockets, threads, tasks.
"""

from __future__ import annotations

import asyncio
from asyncio import events
from collections import deque
from collections.abc import Callable
from contextvars import Context
from heapq import heappop, heappush
from typing import Any

STEP_ENDS, OTHERS = 0, 1


class VirtualLoop(asyncio.AbstractEventLoop):
    """Only what `diptych.runtime.driver` asks of a loop. Callbacks that are ready run before time moves; of
    timers
    at one instant, the ends of steps come first, then whoever was set first."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, int, asyncio.TimerHandle]] = []
        self._set = 0

    def time(self) -> float:
        """Virtual seconds."""
        return self._now_s

    now_s = time

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Before time moves on."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """After ``delay`` seconds."""
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: Context | None = None,
        order: int = OTHERS,
    ) -> asyncio.TimerHandle:
        """At ``when``."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._set += 1
        heappush(self._timers, (max(when, self._now_s), order, self._set, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is skipped when its time comes."""

    def get_debug(self) -> bool:
        """Never."""
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A callback raised: so does the run."""
        raise context["exception"]

    def run_until(self, done: Callable[[], bool]) -> None:
        """Until ``done``, which is asked whenever time is about to move."""
        events._set_running_loop(self)
        try:
            while True:
                while self._ready:
                    handle = self._ready.popleft()
                    if not handle.cancelled():
                        handle._run()
                if done() or not self._timers:
                    return
                when, _, _, timer = heappop(self._timers)
                self._now_s = max(self._now_s, when)
                if not timer.cancelled():
                    timer._run()
        finally:
            events._set_running_loop(None)
