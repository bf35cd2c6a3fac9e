"""Routes for probes and operators: health, readiness, version, metrics, load, ended requests.

Knows: which of them is open and which asks for a key. Does not know: how figures come about.
"""

from __future__ import annotations

import platform
from typing import Annotated, Any

import msgspec
import orjson
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from diptych import __version__
from diptych.metrics.prometheus import CONTENT_TYPE
from diptych.orchestration.explain import told
from diptych.server.auth import metrics_reader, tenant
from diptych.server.errors import Failure, NotFound
from diptych.server.observe import EndedRequest
from diptych.server.state import server_of

probes = APIRouter(tags=["probes"])
admin = APIRouter(tags=["operations"], dependencies=[Depends(tenant)])


@probes.get("/ping")
@probes.get("/live")
@probes.get("/health")
async def alive() -> Response:
    """The process answers. Says nothing about workers: see `/ready`."""
    return _json({"status": "ok"})


@probes.get("/ready")
async def ready(request: Request) -> Response:
    """Whether a prefill → decode path works (503 until it does)."""
    if server_of(request).cluster.ready():
        return _json({"status": "ready"})
    return Failure("not_ready", "No prefill → decode path works yet.").response()


@probes.get("/version")
async def version() -> Response:
    """Versions of diptych and of Python."""
    return _json({"version": __version__, "python": platform.python_version()})


@probes.get("/metrics")
async def metrics(request: Request, _: Annotated[None, Depends(metrics_reader)]) -> Response:
    """All metrics in Prometheus' text form."""
    return Response(server_of(request).observer.prometheus.render(), headers={"content-type": CONTENT_TYPE})


@admin.get("/load")
async def load(request: Request) -> Response:
    """Workers and queues at this moment."""
    server = server_of(request)
    return _json({"model": server.model.name, **msgspec.to_builtins(server.cluster.snapshot())})


@admin.get("/requests/{name}")
async def ended_requests(request: Request, name: str) -> Response:
    """Where the requests of a call ran, why, and when they passed which moment. Only ended ones, and only
    the latest of them."""
    found = server_of(request).observer.find(name)
    if not found:
        raise NotFound(f"No ended request {name[:200]!r} is remembered.")
    return _json({"id": name, "requests": [_shown(ended) for ended in found]})


def _shown(ended: EndedRequest) -> dict[str, Any]:
    shown = msgspec.to_builtins(ended)
    shown["report"]["placements"] = told(ended.report.placements)
    return shown


def _json(content: object) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
