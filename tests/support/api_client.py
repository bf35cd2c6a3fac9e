"""The app under test, with a client that needs no socket, and helpers to read event streams.

Knows: httpx, server-sent events. Does not know: what is in a chunk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import orjson

from diptych.server.app import create_app
from diptych.server.config import ServerConfig
from diptych.server.model import ServedModel
from support.fake_frontend import FakeFrontend
from support.tiny_model import tiny_model

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
MESSAGES = [{"role": "user", "content": "hello"}]


def client_of(
    frontend: FakeFrontend, *, model: ServedModel | None = None, **config: Any
) -> httpx.AsyncClient:
    """A client of the app in this process. Streams are handed over whole once they have ended."""
    app = create_app(frontend, model or tiny_model(), ServerConfig(**config))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")


def events_of(text: str) -> list[Any]:
    """Data of each event of a stream; `[DONE]` as it is. Every line must be data, a comment or empty."""
    found: list[Any] = []
    for line in text.split("\n"):
        assert line == "" or line.startswith((": ", "data: ")), line
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            found.append(data if data == "[DONE]" else orjson.loads(data))
    return found


@asynccontextmanager
async def real_server(
    frontend: FakeFrontend, *, model: ServedModel | None = None, **config: Any
) -> AsyncIterator[str]:
    """The app behind uvicorn on a free loopback port, in this event loop; yields its URL."""
    import asyncio

    from diptych.cli.http import listen, url_of
    from diptych.server.serve import HttpServer

    settings = ServerConfig(port=0, shutdown_s=1.0, **config)
    server = HttpServer(create_app(frontend, model or tiny_model(), settings), settings)
    with listen(settings.host, settings.port) as listener:
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield url_of(listener)
        finally:
            server.stop()
            await task
