"""Answers that clean up after themselves once the last byte is out or the client has gone.

Knows: ASGI messages. Does not know: what is in an answer.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from diptych.server.call import Client, ClientLeft
from diptych.server.observe import Timeline

log = logging.getLogger(__name__)


class Whole(Response):
    """A unary answer; its header `Server-Timing` shows the phases of the first sequence."""

    def __init__(self, content: dict[str, Any], timelines: list[Timeline], cleanup: ExitStack) -> None:
        headers = {"server-timing": _server_timing(timelines)}
        super().__init__(orjson.dumps(content), headers=headers, media_type="application/json")
        self._cleanup = cleanup

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        with self._cleanup:
            await super().__call__(scope, receive, send)


class EventStream(Response):
    """Frames as they come, for as long as the client is there."""

    def __init__(self, frames: AsyncIterator[bytes], client: Client, cleanup: ExitStack) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(headers=headers, media_type="text/event-stream")
        del self.headers["content-length"]
        self._frames, self._client, self._cleanup = frames, client, cleanup

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Send all frames, or as many as the client stays for."""
        with self._cleanup:
            try:
                await self._client.race(self._send(send))
            except ClientLeft:
                log.info("client left the stream of %s", scope["path"])

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for data in self._frames:
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _server_timing(timelines: list[Timeline]) -> str:
    """Milliseconds, as the header wants them."""
    phases = timelines[0].phases_s if timelines else {}
    return ", ".join(f"{name};dur={duration_s * 1000:.3f}" for name, duration_s in phases.items())
