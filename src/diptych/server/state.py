"""What all routes of one app share, and the narrow view of the cluster that the server needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from starlette.requests import HTTPConnection

from diptych.metrics.snapshot import ClusterSnapshot
from diptych.runtime.streams import Frontend
from diptych.server.config import ServerConfig
from diptych.server.model import ServedModel
from diptych.server.observe import Observer

if TYPE_CHECKING:
    from diptych.server.auth import Keys


class ClusterView(Protocol):
    """Figures to show. Called at each scrape: it must not wait for workers."""

    def snapshot(self) -> ClusterSnapshot:
        """The cluster at this moment."""
        ...


class ServedCluster(Frontend, ClusterView, Protocol):
    """All that the server needs of a running cluster."""


@dataclass(frozen=True)
class Server:
    """One app's parts."""

    cluster: ServedCluster
    model: ServedModel
    config: ServerConfig
    observer: Observer
    keys: Keys


def server_of(connection: HTTPConnection) -> Server:
    """The parts of the app that serves this connection."""
    return connection.app.state.server
