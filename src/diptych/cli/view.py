"""A running cluster as the server wants to see it: its front end and its figures in one object.

Knows: who answers what. Does not know: how.
"""

from __future__ import annotations

from diptych.domain.ids import RequestId
from diptych.domain.request import Request
from diptych.metrics.snapshot import ClusterSnapshot
from diptych.runtime.cluster import Cluster
from diptych.runtime.streams import RequestStream


class ClusterAsServed:
    """Passes every question on; see `diptych.server.state.ServedCluster`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._frontend = cluster.frontend

    def now_s(self) -> float:
        """Seconds on the cluster's clock."""
        return self._frontend.now_s()

    def submit(self, request: Request, received_s: float) -> RequestStream:
        """Hand a request to the cluster."""
        return self._frontend.submit(request, received_s)

    def stop(self, request_id: RequestId) -> None:
        """The output is complete."""
        self._frontend.stop(request_id)

    def abort(self, request_id: RequestId) -> None:
        """The client has gone."""
        self._frontend.abort(request_id)

    def ready(self) -> bool:
        """Whether a prefill → decode path exists and has worked."""
        return self._frontend.ready()

    def snapshot(self) -> ClusterSnapshot:
        """The cluster at this moment."""
        return self._cluster.snapshot()
