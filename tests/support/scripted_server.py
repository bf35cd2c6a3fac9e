"""A scripted HTTP server on loopback, and a clock that only the script moves.

Knows: HTTP/1.1 as far as a load generator needs it. Does not know: diptych. A step of a script moves the
clock,
writes, and waits until the client has looked at the clock: each moment that the client records is known
exactly.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


class ManualClock:
    """Seconds that stand still."""

    def __init__(self) -> None:
        self.value_s = 0.0
        self.reads = 0

    def now_s(self) -> float:
        """Counts who looks."""
        self.reads += 1
        return self.value_s


@dataclass(frozen=True)
class Step:
    """After ``delay_s``, these bytes."""

    delay_s: float
    data: bytes


@dataclass(frozen=True)
class Script:
    """An answer to one POST."""

    steps: Sequence[Step] = ()
    status: int = 200
    headers_after_s: float = 0.0
    content_type: str = "text/event-stream"
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    """Close the connection without the last, empty chunk of the transfer encoding."""
    silent: bool = False
    """Never answer."""


def chunk(text: str = "", *, finish: str | None = None, **fields: Any) -> bytes:
    """An event of a text completion. ``token_ids`` goes into the choice, the rest beside it."""
    choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": finish}
    if "token_ids" in fields:
        choice["token_ids"] = fields.pop("token_ids")
    return event({"id": "cmpl-1", "choices": [choice], **fields})


def usage(prompt: int, output: int, **fields: Any) -> bytes:
    """The event with the counts."""
    counts = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    return event({"id": "cmpl-1", "choices": [], "usage": counts, **fields})


def event(data: Any) -> bytes:
    """One event."""
    return b"data: " + json.dumps(data).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


class ScriptedServer:
    """Answers each POST by what ``answer`` makes of its body; knows the GET routes of a small server."""

    def __init__(self, answer: Callable[[dict[str, Any]], Script], clock: ManualClock | None) -> None:
        self._answer = answer
        self._clock = clock
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.pages: dict[str, Any] = {
            "/v1/models": {"data": [{"id": "m", "owned_by": "scripted", "max_model_len": 1000}]},
            "/version": {"version": "7"},
        }

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while head := await _head(reader):
                if head.startswith("GET "):
                    self._page(writer, head.split()[1])
                    await writer.drain()
                elif not await self._post(reader, writer, head):
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has left
        finally:
            writer.close()

    def _page(self, writer: asyncio.StreamWriter, path: str) -> None:
        found = path in self.pages
        body = json.dumps(self.pages.get(path)).encode()
        writer.write(_start(200 if found else 404, "application/json", {"content-length": str(len(body))}))
        writer.write(body)

    async def _post(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str) -> bool:
        """Whether the connection can be used again."""
        length = next(line for line in head.lower().split("\r\n") if line.startswith("content-length:"))
        body = json.loads(await reader.readexactly(int(length.split(":")[1])))
        self.bodies.append(body)
        self.headers.append(head)
        script = self._answer(body)
        if script.silent:
            await reader.read()
            return False
        headers = {**script.headers, "transfer-encoding": "chunked"}
        await self._step(writer, script.headers_after_s, _start(script.status, script.content_type, headers))
        for step in script.steps:
            data = b"%x\r\n%s\r\n" % (len(step.data), step.data)
            watched = script.content_type == "text/event-stream"  # other bodies are read as a whole
            await self._step(writer, step.delay_s, data, watched=watched)
        if script.cut:
            return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _step(
        self, writer: asyncio.StreamWriter, delay_s: float, data: bytes, *, watched: bool = True
    ) -> None:
        if self._clock is None:
            await asyncio.sleep(delay_s)
            writer.write(data)
            return
        self._clock.value_s += delay_s
        reads = self._clock.reads
        writer.write(data)
        async with asyncio.timeout(20):
            while watched and self._clock.reads == reads:
                await asyncio.sleep(0)


async def _head(reader: asyncio.StreamReader) -> str:
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return ""


def _start(status: int, content_type: str, headers: dict[str, str]) -> bytes:
    lines = [
        f"HTTP/1.1 {status} X",
        f"content-type: {content_type}",
        *(f"{k}: {v}" for k, v in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


@asynccontextmanager
async def scripted(
    answer: Callable[[dict[str, Any]], Script], clock: ManualClock | None = None
) -> AsyncIterator[tuple[str, ScriptedServer]]:
    """A running server: its URL and itself. Without a clock, delays are real."""
    fake = ScriptedServer(answer, clock)
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", fake
    finally:
        server.close()
