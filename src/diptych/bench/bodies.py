"""Bodies of requests, rendered before they are due.

Knows: the fields of both endpoints that fix lengths and ask for counts. Does not know: sockets, schedules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from diptych.bench.prompts import Prompts
from diptych.bench.schedule import Due

Endpoint = Literal["completions", "chat"]

PATHS: Mapping[Endpoint, str] = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}

AHEAD_BYTES = 256 << 20
"""Bodies that wait ready at one time. A prompt of 10,000 tokens takes about 45 KB."""


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What a kind of server understands beyond OpenAI's fields."""

    timeline: bool = False
    """``include_metrics``: its own moments on the last chunk."""
    running_usage: bool = False
    """``continuous_usage_stats``: each chunk says how many tokens there are so far."""
    cache_salt: str | None = None
    """Keeps what earlier runs left in the prompt cache out of this one."""
    token_ids: bool = False
    """``return_token_ids``: each chunk says which tokens it holds (and the first repeats the prompt)."""


class Bodies:
    """Bodies by request."""

    def __init__(self, endpoint: Endpoint, model: str, prompts: Prompts, extras: Extras) -> None:
        self._prompts = prompts
        start: dict[str, Any] = {"model": model}
        self._head = orjson.dumps(start)[:-1] + (
            b',"prompt":' if endpoint == "completions" else b',"messages":[{"role":"user","content":'
        )
        self._between = b"" if endpoint == "completions" else b"}]"
        self._tail = b"," + orjson.dumps(_fixed(extras))[1:]
        self._ready: dict[int, bytes] = {}
        self._ready_bytes = 0

    def prepare(self, due: Due) -> None:
        """Render one and keep it."""
        if due.index not in self._ready:
            body = self.render(due)
            self._ready[due.index] = body
            self._ready_bytes += len(body)

    def take(self, due: Due) -> bytes:
        """The body, rendered now if it is not ready; it is not kept."""
        body = self._ready.pop(due.index, None)
        if body is None:
            return self.render(due)
        self._ready_bytes -= len(body)
        return body

    @property
    def full(self) -> bool:
        """Whether as many are ready as may be."""
        return self._ready_bytes >= AHEAD_BYTES

    def render(self, due: Due) -> bytes:
        """The whole body."""
        parts: Sequence[bytes] = (
            self._head,
            self._prompts.render(due),
            self._between,
            b',"max_tokens":%d' % due.output_tokens,
            self._tail,
        )
        return b"".join(parts)


def _fixed(extras: Extras) -> dict[str, Any]:
    """Greedy, streamed, to the full length."""
    stream: dict[str, Any] = {"include_usage": True}
    fields: dict[str, Any] = {"stream": True, "temperature": 0, "ignore_eos": True, "stream_options": stream}
    if extras.running_usage:
        stream["continuous_usage_stats"] = True
    if extras.timeline:
        fields["include_metrics"] = True
    if extras.cache_salt is not None:
        fields["cache_salt"] = extras.cache_salt
    if extras.token_ids:
        fields["return_token_ids"] = True
    return fields
