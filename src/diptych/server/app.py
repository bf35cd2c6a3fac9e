"""The app: routes, error handlers and the boundary, put together.

Knows: the parts. Does not know: sockets (see `serve`), how the cluster is started.
"""

from __future__ import annotations

import logging
from functools import cache

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from diptych import __version__
from diptych.domain.errors import ClientError, DiptychError
from diptych.server import documentation, operations
from diptych.server.auth import Keys
from diptych.server.boundary import Boundary
from diptych.server.call import ClientLeft
from diptych.server.config import ServerConfig
from diptych.server.errors import Failure, RequestFailed, failure_of_error
from diptych.server.model import ServedModel
from diptych.server.observe import Observer
from diptych.server.openai import routes
from diptych.server.state import ServedCluster, Server, server_of

log = logging.getLogger(__name__)

_CLIENT_CLOSED_REQUEST = 499
"""Nobody reads this answer; the status is for logs."""


def create_app(frontend: ServedCluster, model: ServedModel, config: ServerConfig | None = None) -> FastAPI:
    """The whole HTTP interface over one running cluster."""
    settings = config or ServerConfig()
    app = FastAPI(
        title="diptych",
        version=__version__,
        summary="Language models served with prefill and decode on separate pools of workers.",
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    app.state.server = Server(
        cluster=frontend,
        model=model,
        config=settings,
        observer=Observer(frontend.snapshot, settings.reports),
        keys=Keys(settings.api_keys),
    )
    for router in (routes.router, operations.probes, operations.admin, documentation.page):
        app.include_router(router)
    _add_handlers(app)
    app.add_middleware(Boundary, now_s=frontend.now_s)
    app.openapi = cache(lambda: documentation.document_of(app, model.name))
    return app


# ---------------------------------------------------------------- errors


def _add_handlers(app: FastAPI) -> None:
    app.add_exception_handler(DiptychError, _on_error)
    app.add_exception_handler(RequestFailed, _on_failure)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(ClientLeft, _on_client_left)
    app.add_exception_handler(ClientDisconnect, _on_client_left)


async def _on_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, DiptychError):
        raise error
    if not isinstance(error, ClientError):
        log.error("failed to answer %s %s", request.method, request.url.path, exc_info=error)
    return failure_of_error(error).response(server_of(request).config.saturated_status)


async def _on_failure(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestFailed):
        raise error
    return error.failure.response(server_of(request).config.saturated_status)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Unknown routes and wrong methods, in the shape of all errors."""
    if not isinstance(error, HTTPException):
        raise error
    headers = dict(error.headers or {})
    if error.status_code == 405:
        return Failure(
            "method_not_allowed", f"{request.method} is not possible here.", headers=headers
        ).response()
    if error.status_code == 404:
        return Failure("not_found", "There is no such route.", headers=headers).response()
    return Failure("invalid_request", str(error.detail), headers=headers).response()


async def _on_validation_error(_: Request, error: Exception) -> Response:
    return Failure("invalid_value", f"The request is not valid: {type(error).__name__}.").response()


async def _on_client_left(request: Request, _: Exception) -> Response:
    log.info("client left before the answer to %s %s", request.method, request.url.path)
    return Response(status_code=_CLIENT_CLOSED_REQUEST)
