"""The app behind uvicorn, on sockets that somebody else has bound, in the running event loop.

Knows: uvicorn. Does not know: routes, the cluster, signals (they also count while no server runs yet).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from diptych.server.config import ServerConfig


class HttpServer(uvicorn.Server):
    """Call `serve` with listening sockets, and `stop` to end it from within.

    On the way out it takes no new connection, lets running answers go on for ``shutdown_s`` and cancels the
    rest, which aborts their requests.
    """

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        super().__init__(
            uvicorn.Config(
                app,
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

    def stop(self) -> None:
        """End `serve`."""
        self.should_exit = True

    def hurry(self) -> None:
        """End it without waiting for running answers."""
        self.force_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield
