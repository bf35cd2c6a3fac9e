"""`/docs` and `/openapi.json`: the API, described for people and for tools.

Knows: the page's files, the document's gaps. Does not know: what a route does.

The page is ours and whole: no script, style or picture comes from elsewhere, so it works without a network,
and its policy allows nothing else. All its addresses are relative to itself, so any path may be in front.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from diptych.server.errors import NotFound
from diptych.server.openai import routes

HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}

_FILES = {"page.js": "text/javascript", "page.css": "text/css"}

page = APIRouter(include_in_schema=False)


@page.get("/docs")
async def docs() -> Response:
    """The page that shows the document."""
    return _file("index.html", "text/html")


@page.get("/docs/{name}")
async def asset(name: str) -> Response:
    """Its script and its style."""
    if name not in _FILES:
        raise NotFound("There is no such file.")
    return _file(name, _FILES[name])


def document_of(app: FastAPI, model_name: str) -> dict[str, Any]:
    """The OpenAPI document, with what the routes do not tell it: they read their bodies themselves, to bound
    and explain. The examples work as they stand."""
    document = get_openapi(
        title=app.title, version=app.version, summary=app.summary, routes=app.routes, servers=app.servers
    )
    _, schemas = models_json_schema(
        [(body, "validation") for body in routes.BODIES], ref_template="#/components/schemas/{model}"
    )
    document.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
    for path, body in routes.EXAMPLES.items():
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        content["example"] = {"model": model_name, **body}
    return document


def _file(name: str, media_type: str) -> Response:
    return Response(
        (files("diptych.server") / "page" / name).read_bytes(), media_type=media_type, headers=HEADERS
    )
