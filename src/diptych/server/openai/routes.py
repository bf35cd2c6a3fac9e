"""The `/v1` routes of OpenAI's dialect.

Knows: which route does what, in which order: read, check, submit, answer. Does not know: shapes of answers.
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import ExitStack
from typing import Annotated, Any
from uuid import uuid4

import orjson
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from diptych.domain.errors import UnknownModel
from diptych.server.auth import cache_salt, tenant
from diptych.server.body import read_body
from diptych.server.boundary import received_s
from diptych.server.call import Call, Client
from diptych.server.model import ServedModel
from diptych.server.openai.answer import Answer
from diptych.server.openai.ask import Ask, ask_of_chat, ask_of_completion
from diptych.server.openai.bodies import ChatCompletionRequest, CompletionRequest
from diptych.server.openai.dialect import Chat, Completion, Dialect
from diptych.server.openai.unsupported import refuse_unsupported
from diptych.server.responses import EventStream, Whole
from diptych.server.state import Server, server_of

router = APIRouter(prefix="/v1", tags=["OpenAI"], dependencies=[Depends(tenant)])

BODIES = (ChatCompletionRequest, CompletionRequest)
"""Models whose schemas the OpenAPI document refers to."""

EXAMPLES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": "Tell me a tale."}],
        "max_tokens": 120,
        "stream": True,
    },
    "/v1/completions": {"prompt": "Once upon a time", "max_tokens": 40},
}
"""A body for each route that takes one; the model's name comes on top."""

Tenant = Annotated[str, Depends(tenant)]


def _body_of(name: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


@router.post("/chat/completions", openapi_extra=_body_of("ChatCompletionRequest"))
async def chat_completions(request: Request, caller: Tenant) -> Response:
    """Answer a conversation, whole or as a stream of server-sent events."""
    server = server_of(request)
    body = await read_body(request, ChatCompletionRequest, server.config.max_body_bytes)
    _check_model(body.model, server)
    refuse_unsupported(body)
    dialect = Chat(server.model.tokenizer)
    ask_for = ask_of_chat(body, server.model, server.config)
    return await _answer(request, server, dialect, caller, ask_for)


@router.post("/completions", openapi_extra=_body_of("CompletionRequest"))
async def completions(request: Request, caller: Tenant) -> Response:
    """Continue one or more prompts, whole or as a stream of server-sent events."""
    server = server_of(request)
    body = await read_body(request, CompletionRequest, server.config.max_body_bytes)
    _check_model(body.model, server)
    refuse_unsupported(body)
    dialect = Completion(server.model.tokenizer)
    ask_for = ask_of_completion(body, server.model, server.config)
    return await _answer(request, server, dialect, caller, ask_for)


@router.get("/models")
async def models(request: Request) -> Response:
    """All names of the served model."""
    model = server_of(request).model
    return _json({"object": "list", "data": [_model_object(name, model) for name in model.names]})


@router.get("/models/{name:path}")
async def one_model(request: Request, name: str) -> Response:
    """One name of the served model (404 for any other)."""
    server = server_of(request)
    _check_model(name, server)
    return _json(_model_object(name, server.model))


# ---------------------------------------------------------------- generating


async def _answer(
    request: Request, server: Server, dialect: Dialect, caller: str, ask_for: Coroutine[Any, Any, Ask]
) -> Response:
    """Ask, submit, and answer; whatever happens, nothing of the call stays behind."""
    with ExitStack() as cleanup:
        client = Client(request.receive)
        cleanup.callback(client.forget)
        ask = await client.race(ask_for)
        call = Call(_call_id(dialect, ask), ask, server.cluster, server.observer)
        cleanup.callback(call.close)
        call.submit(server.model, cache_salt(caller, ask.cache_salt), received_s(request))
        answer = Answer(call, dialect, server.model)
        if not ask.stream:
            content = await client.race(answer.whole())
            return Whole(content, answer.timelines(), cleanup.pop_all())
        keep_alive_s = server.config.keep_alive_s
        events = await client.race(answer.first_events(keep_alive_s))
        return EventStream(answer.frames(events, keep_alive_s), client, cleanup.pop_all())


def _call_id(dialect: Dialect, ask: Ask) -> str:
    return f"{dialect.id_prefix}{ask.request_id or uuid4().hex}"


# ---------------------------------------------------------------- models


def _check_model(name: str | None, server: Server) -> None:
    if name is not None and name not in server.model.names and not server.config.accept_any_model:
        raise UnknownModel(f"The model {name!r} is not served here.", "model")


def _model_object(name: str, model: ServedModel) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": model.created_s,
        "owned_by": "diptych",
        "root": model.name,
        "parent": None,
        "max_model_len": model.max_model_tokens,
    }


def _json(content: object) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
