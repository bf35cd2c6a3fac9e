"""Reading a JSON body: its type, its length while it comes, its encoding.

Knows: HTTP. Does not know: what the JSON means.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request

from diptych.domain.errors import InvalidRequest
from diptych.server.errors import InvalidContentType, InvalidJson, RequestTooLarge

Body = TypeVar("Body", bound=BaseModel)


async def read_body(request: Request, model: type[Body], max_bytes: int) -> Body:
    """The body as ``model``. Raises `ClientError`; reads no more than ``max_bytes``."""
    _check_type(request.headers.get("content-type"))
    data = await _read(request, max_bytes)
    with _no_collection():
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise InvalidJson(f"The body is not valid JSON: {error}") from None
        if not isinstance(value, dict):
            raise InvalidJson("The body must be a JSON object.")
        return parse(value, model)


@contextmanager
def _no_collection() -> Iterator[None]:
    """No search for cycles meanwhile: JSON has none, and a body of a million small lists would start so many
    searches that every other stream stands still for four times as long."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def parse(value: dict[str, object], model: type[Body]) -> Body:
    """``value`` as ``model``. Raises `InvalidRequest` naming the first wrong field."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        raise _explained(problems) from None


async def _read(request: Request, max_bytes: int) -> bytes:
    too_large = RequestTooLarge(f"The body is longer than {max_bytes} bytes.")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise too_large
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > max_bytes:
            raise too_large
    return bytes(data)


def _check_type(content_type: str | None) -> None:
    kind = (content_type or "application/json").split(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise InvalidContentType(f"The body must be sent as application/json, not as {kind[:100]}.")


def _explained(problems: list[ErrorDetails]) -> InvalidRequest:
    """One sentence about the first wrong field; a field that may have several types has several problems."""
    param = _param(problems[0]["loc"])
    reasons = {problem["msg"]: None for problem in problems if _param(problem["loc"]) == param}
    return InvalidRequest(f"{param}: {' or '.join(list(reasons)[:4])}", param)


def _param(place: tuple[int | str, ...]) -> str:
    """``messages[0].content`` from pydantic's path, which goes on into the types of a union."""
    path = ""
    for step in place:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step in ("str", "int") or not step.isidentifier():
            break
        else:
            path += f".{step}" if path else step
    return path.partition("[")[0] if path.startswith(("prompt", "stop", "logit_bias")) else path
