"""Sockets: the app behind uvicorn, in the running event loop.

Knows: uvicorn, signals, shutting down. Does not know: routes, the cluster.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from diptych.server.config import ServerConfig


class HttpServer(uvicorn.Server):
    """Listens, and says where. Call `stop` to end it from within; SIGINT and SIGTERM do the same.

    On the way out it takes no new connection, lets running answers go on for ``shutdown_s`` and cancels the
    rest, which aborts their requests.
    """

    def __init__(
        self, app: ASGIApp, config: ServerConfig, on_listening: Callable[[str], None] | None = None
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=config.host,
                port=config.port,
                root_path=config.root_path,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=max(1, round(config.shutdown_s)),
            )
        )
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Bind, then tell the address."""
        await super().startup(sockets)
        if self._on_listening is not None and not self.should_exit:
            self._on_listening(self.url)

    @property
    def url(self) -> str:
        """Where it listens, with the port that was really taken."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def stop(self) -> None:
        """End `serve`."""
        self.should_exit = True


async def serve(
    app: ASGIApp, config: ServerConfig, on_listening: Callable[[str], None] | None = None
) -> None:
    """Answer until a signal comes. Run it in the cluster's own event loop (uvloop for speed)."""
    await HttpServer(app, config, on_listening).serve()
