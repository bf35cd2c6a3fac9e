"""An HTTP app on a socket until somebody wants it to stop.

Knows: signals. Does not know: what the app does.

The first signal lets running answers end (for a while), the second does not wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from starlette.types import ASGIApp

from diptych.domain.errors import DiptychError
from diptych.server.config import ServerConfig
from diptych.server.serve import HttpServer

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopper:
    """Hears the signals that ask a process to end. Belongs to one event loop."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._again: Callable[[], None] = lambda: None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals over for as long as the block runs."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._hear)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    def on_second(self, action: Callable[[], None]) -> None:
        """What a second signal does."""
        self._again = action

    async def wait(self) -> None:
        """Until the first signal."""
        await self._asked.wait()

    async def completes(self, work: Coroutine[Any, Any, object]) -> bool:
        """Run ``work``; False if a signal came first (it has been cancelled then). Raises what it raises."""
        task, asked = asyncio.create_task(work), asyncio.create_task(self.wait())
        await asyncio.wait((task, asked), return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
            return False
        await task
        return True

    def _hear(self) -> None:
        if self._asked.is_set():
            self._again()
        self._asked.set()


class HttpHost:
    """One app, served."""

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        self._server = HttpServer(app, config)

    async def run(
        self, listener: socket.socket, stopper: Stopper, life: Coroutine[Any, Any, DiptychError]
    ) -> None:
        """Serve until a signal comes. Meanwhile run ``life``: what it raises or returns ends the server, and
        is raised."""
        serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        asked, living = asyncio.create_task(stopper.wait()), asyncio.create_task(life)
        stopper.on_second(self._server.hurry)
        await asyncio.wait((serving, asked, living), return_when=asyncio.FIRST_COMPLETED)
        self._server.stop()
        await serving
        asked.cancel()
        if living.done():
            raise living.result()
        living.cancel()
        await asyncio.wait((living,))
