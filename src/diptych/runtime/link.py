"""The head's end of one worker's stream: greeting first, then reports in, commands out.

Knows: asyncio transports, who may connect, how much may wait to be written. Does not know: processes,
requests, decisions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, cast

from diptych.domain.ids import WorkerId
from diptych.runtime.wire import (
    MAX_FRAME_BYTES,
    FromHead,
    FromWorker,
    Hello,
    MalformedFrame,
    NotExpected,
    Refused,
    WireError,
    encode_frame,
    head_reader,
)

log = logging.getLogger("diptych.runtime")

MAX_OUTGOING_BYTES = 64 << 20
"""A worker that lets more than this wait does not read any more."""

GREETING_TIMEOUT_S = 10.0
"""A connection must say who it is within this time."""


class LinkOwner(Protocol):
    """Whoever stands behind an accepted connection; called on the event loop, never twice at once."""

    def heard(self, message: FromWorker) -> None:
        """A message after the greeting. May raise `WireError`: the link is closed."""
        ...

    def link_closed(self, reason: str) -> None:
        """The stream has ended; everything that came before has been handed to `heard`."""
        ...


Greet = Callable[[Hello, "WorkerLink"], LinkOwner]
"""Who stands behind a `Hello`. Raises `WireError` to refuse it."""


class WorkerLink(asyncio.Protocol):
    """One connection. Not accepted until its `Hello` has been."""

    def __init__(self, greet: Greet) -> None:
        self._greet = greet
        self._owner: LinkOwner | None = None
        self._reader = head_reader()
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._why = "end of stream"

    def send(self, message: FromHead) -> bool:
        """Queue one message; never blocks. False when the link is closed or its reader has stopped reading:
        then the message is not sent, and the caller must end the worker."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        if transport.get_write_buffer_size() > MAX_OUTGOING_BYTES:
            return False
        transport.write(encode_frame(message))
        return True

    def close(self, why: str) -> None:
        """Hang up at once; what waits to be written is dropped."""
        if self._transport is not None and not self._transport.is_closing():
            self._why = why
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A process has connected."""
        # A stream socket's transport; uvloop's does not inherit from asyncio's, so no isinstance here.
        self._transport = cast(asyncio.Transport, transport)
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(GREETING_TIMEOUT_S, self.close, "no greeting in time")

    def data_received(self, data: bytes) -> None:
        """Bytes came: hand on every message that is complete."""
        try:
            for message in self._reader.feed(data):
                self._take(message)
        except WireError as error:
            self._refuse(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """The stream has ended."""
        self._cancel_deadline()
        if self._owner is not None:
            self._owner.link_closed(str(exc) if exc else self._why)

    def _take(self, message: FromWorker) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._owner is not None:
            self._owner.heard(message)
            return
        if not isinstance(message, Hello):
            raise MalformedFrame(f"a {type(message).__name__} before the greeting")
        self._owner = self._greet(message, self)
        self._reader.limit_bytes = MAX_FRAME_BYTES
        self._cancel_deadline()

    def _refuse(self, error: WireError) -> None:
        log.warning("closed a worker connection: %s (%s)", error, error.code)
        self.send(Refused(error.code, str(error)))
        self._why = str(error)
        if self._transport is not None:
            self._transport.close()

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Listener:
    """The socket that workers connect to, in a directory that only we may enter."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "head.sock"
        self._expected: dict[WorkerId, Greet] = {}
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: WorkerLink(self._dispatch), str(self.path))

    def expect(self, worker_id: WorkerId, greet: Greet) -> None:
        """Let ``greet`` judge the next `Hello` of this worker; replaces an earlier expectation."""
        self._expected[worker_id] = greet

    def forget(self, worker_id: WorkerId) -> None:
        """Nobody waits for this worker any more."""
        self._expected.pop(worker_id, None)

    def close(self) -> None:
        """Accept nobody any more; links that stand are their owners' to close."""
        if self._server is not None:
            self._server.close()

    def _dispatch(self, hello: Hello, link: WorkerLink) -> LinkOwner:
        greet = self._expected.get(hello.worker_id)
        if greet is None:
            raise NotExpected(f"nobody waits for a worker {hello.worker_id!r}")
        owner = greet(hello, link)
        self.forget(hello.worker_id)
        return owner
