"""`/docs` and `/openapi.json`: complete, without a network, below any path."""

from __future__ import annotations

import re
from importlib.resources import files
from urllib.parse import urljoin

import httpx
import pytest
from fastapi.routing import APIRoute

from diptych.server import operations
from diptych.server.openai import routes
from diptych.server.openai.bodies import ChatCompletionRequest, CompletionRequest
from support.api_client import CHAT, TEXT, client_of, real_server
from support.fake_frontend import FakeFrontend
from support.tiny_model import EOS, ids_of

PAGE = ("/docs", "/docs/page.js", "/docs/page.css")


def saying(text: str = "the fox") -> FakeFrontend:
    return FakeFrontend(lambda _: [*ids_of(text), EOS])


@pytest.mark.parametrize("path", PAGE)
async def test_the_page_needs_nothing_from_elsewhere(path: str) -> None:
    async with client_of(saying(), api_keys=("k",)) as client:
        response = await client.get(path)
    assert response.status_code == 200
    assert re.findall(r"https?://|(?<![:\w])//\w", re.sub(r"(?m)^\s*// .*|\s// .*$", "", response.text)) == []
    assert response.headers["content-security-policy"].startswith("default-src 'self';")
    assert "unsafe" not in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_the_page_obeys_its_own_policy() -> None:
    """Neither scripts nor styles in the page itself, and nothing that is read as HTML."""
    async with client_of(saying()) as client:
        html, script, _ = [(await client.get(path)).text for path in PAGE]
    assert re.findall(r"<style|<script(?![^>]*\ssrc=)|\s(?:style|on\w+)=", html) == []
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", script) == []


async def test_every_file_of_the_page_is_served_and_no_other() -> None:
    shipped = {entry.name for entry in (files("diptych.server") / "page").iterdir()}
    assert shipped == {"index.html", "page.js", "page.css"}
    async with client_of(saying()) as client:
        for name in ("index.html", "..%2Fapp.py", "nothing.js"):
            assert (await client.get(f"/docs/{name}")).status_code == 404


async def test_pages_that_would_load_scripts_from_elsewhere_do_not_exist() -> None:
    async with client_of(saying()) as client:
        for path in ("/redoc", "/docs/oauth2-redirect"):
            assert (await client.get(path)).status_code == 404


async def test_the_script_knows_all_elements_that_it_looks_for() -> None:
    async with client_of(saying()) as client:
        html, script, _ = [(await client.get(path)).text for path in PAGE]
    wanted = set(re.findall(r'(?:byId|number)\("(\w+)"\)', script))
    assert wanted and wanted == wanted & set(re.findall(r'id="(\w+)"', html))


async def test_the_document_holds_every_endpoint() -> None:
    routers = (routes.router, operations.probes, operations.admin)
    served = {
        (route.path.replace(":path", ""), verb)
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute)
        for verb in route.methods or ()
    }
    async with client_of(saying()) as client:
        document = (await client.get("/openapi.json")).json()
    shown = {(path, verb.upper()) for path, verbs in document["paths"].items() for verb in verbs}
    assert shown == served
    assert {(CHAT, "POST"), (TEXT, "POST"), ("/v1/models/{name}", "GET"), ("/health", "GET")} <= shown


@pytest.mark.parametrize(("path", "body"), [(CHAT, ChatCompletionRequest), (TEXT, CompletionRequest)])
async def test_the_document_describes_bodies_with_examples_that_work(
    path: str, body: type[ChatCompletionRequest] | type[CompletionRequest]
) -> None:
    async with client_of(saying()) as client:
        document = (await client.get("/openapi.json")).json()
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert (await client.post(path, json=content["example"])).status_code == 200
    assert content["example"]["model"] == "tiny"
    assert content["schema"] == {"$ref": f"#/components/schemas/{body.__name__}"}
    schema = document["components"]["schemas"][body.__name__]
    assert set(schema["properties"]) == set(body.model_fields)
    assert [name for name, field in schema["properties"].items() if not field.get("description")] == []
    references = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert references <= set(document["components"]["schemas"])


async def test_it_works_below_a_path() -> None:
    """A proxy in front strips the prefix; addresses relative to the page find it again."""
    async with real_server(saying(), root_path="/llm") as url, httpx.AsyncClient() as client:
        assert (await client.get(f"{url}/v1/models")).status_code == 200
        document = (await client.get(f"{url}/openapi.json")).json()
        html = (await client.get(f"{url}/docs")).text
        addresses = re.findall(r'(?:href|src)="([^"]*)"', html)
        assert addresses and all(not address.startswith("/") for address in addresses)
        for address in addresses:
            seen = urljoin("http://outside/llm/docs", address)
            assert seen.startswith("http://outside/llm/")
            assert (await client.get(seen.replace("http://outside/llm", url))).status_code == 200
    assert document["servers"] == [{"url": "/llm"}]
