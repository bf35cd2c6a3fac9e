"""The edge of the app: request ids, and the one place where bugs are caught.

Knows: ASGI. Does not know: routes, dialects. A bug in one request is logged with its traceback, told to the
client without it, and leaves all other requests alone.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from uuid import uuid4

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diptych.server.errors import INTERNAL

log = logging.getLogger(__name__)

_ID = re.compile(r"[\x21-\x7e]{1,200}")
"""What a client may choose as its request id: printable, no spaces, of bounded length."""


class Boundary:
    """Outermost middleware of ours. ``now_s`` is the cluster's clock."""

    def __init__(self, app: ASGIApp, now_s: Callable[[], float]) -> None:
        self._app = app
        self._now_s = now_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP exchange (everything else is passed on)."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        exchange = _Exchange(_request_id(scope), send)
        scope.setdefault("state", {})["received_s"] = self._now_s()
        try:
            await self._app(scope, receive, exchange.send)
        except Exception:
            log.exception("bug while answering %s %s", scope["method"], exchange.request_id)
            await exchange.fail(scope, receive)


class _Exchange:
    """What has been sent of one answer."""

    def __init__(self, request_id: str, send: Send) -> None:
        self.request_id = request_id
        self._send = send
        self._begun = False
        self._ended = False
        self._event_stream = False

    async def send(self, message: Message) -> None:
        """Pass a message on; the first gets the request id."""
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            self._begun = True
            self._event_stream = headers.get("content-type", "").startswith("text/event-stream")
        elif message["type"] == "http.response.body":
            self._ended = not message.get("more_body", False)
        await self._send(message)

    async def fail(self, scope: Scope, receive: Receive) -> None:
        """Tell the client as far as that is still possible."""
        if not self._begun:
            await INTERNAL.response()(scope, receive, self.send)
        elif self._event_stream and not self._ended:
            data = b"data: " + orjson.dumps(INTERNAL.body()) + b"\n\n"
            await self.send({"type": "http.response.body", "body": data, "more_body": False})


def received_s(connection: HTTPConnection) -> float:
    """When the first byte of this request came, on the cluster's clock."""
    return connection.state.received_s


def _request_id(scope: Scope) -> str:
    """The client's, if it is usable, else a new one."""
    sent = Headers(scope=scope).get("x-request-id", "")
    return sent if _ID.fullmatch(sent) else f"req-{uuid4().hex}"
