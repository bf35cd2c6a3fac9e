"""Many greedy requests at once over HTTP, and every answer checked for being whole: no token twice, none
missing, one end.

Knows: the completions route, event streams, what an exact answer is. Does not know: workers, faults.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import httpx
import orjson

IN_FLIGHT = 32
PATIENCE_S = 240.0
"""How long a client waits for anything at all; only what is broken takes so long."""

_FIRST_ID, _LAST_ID = 300, 2000
"""Token ids of prompts: ordinary ones of the built-in vocabulary."""
_PROMPT_LENGTHS = (3, 16, 17, 40, 75, 96, 150, 260)
_OUTPUT_LENGTHS = (24, 7, 40, 16, 33, 2, 40, 1, 28)
_SHARED_PREFIX_TOKENS = 50


class Wrong(Exception):
    """An answer is not what every fault must leave it to be."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One request. Fresh ones find nothing in a prompt cache; the others find what earlier volleys left."""

    number: int
    prompt_token_ids: tuple[int, ...]
    max_tokens: int
    stream: bool
    fresh: bool
    frequency_penalty: float

    def body(self, salt: str, *, stream: bool) -> dict[str, Any]:
        """The JSON body. ``salt`` is of the volley."""
        body: dict[str, Any] = {
            "prompt": list(self.prompt_token_ids),
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "frequency_penalty": self.frequency_penalty,
            "ignore_eos": True,
            "return_token_ids": True,
            "cache_salt": salt if self.fresh else "all volleys",
        }
        return body | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})


@dataclass(frozen=True)
class Answer:
    """What must be the same whatever happened meanwhile."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: str


@dataclass(frozen=True)
class Refusal:
    """A typed error: as an answer of its own, or as the last frame of a stream that had begun."""

    status: int
    code: str
    retry_after: str | None
    token_ids: tuple[int, ...]
    """What had come before."""


def asks(count: int = IN_FLIGHT) -> tuple[Ask, ...]:
    """Mixed lengths; three of four as streams; every other one fresh, two of three with a penalty
    (whose counts have to move with the request)."""
    return tuple(_ask(number) for number in range(count))


def _ask(number: int) -> Ask:
    chooser = random.Random(number)
    shared = random.Random("prefix")
    length = _PROMPT_LENGTHS[number % len(_PROMPT_LENGTHS)]
    ids = [chooser.randrange(_FIRST_ID, _LAST_ID) for _ in range(length)]
    if number % 5 == 0:
        ids = [shared.randrange(_FIRST_ID, _LAST_ID) for _ in range(_SHARED_PREFIX_TOKENS)] + ids
    return Ask(
        number=number,
        prompt_token_ids=tuple(ids),
        max_tokens=_OUTPUT_LENGTHS[number % len(_OUTPUT_LENGTHS)],
        stream=number % 4 != 3,
        fresh=number % 2 == 0,
        frequency_penalty=0.8 if number % 3 else 0.0,
    )


class Caller:
    """One client on a connection of its own."""

    def __init__(self, http: httpx.AsyncClient, ask: Ask, salt: str, *, stream: bool | None = None) -> None:
        self.ask = ask
        self.stream = ask.stream if stream is None else stream
        self.left = False
        self.chunks = 0
        """Chunks with a choice in them so far: the first comes with the first token."""
        self._http = http
        self._events: list[Any] = []
        self._response: httpx.Response | None = None
        self._body = ask.body(salt, stream=self.stream)
        self._task = asyncio.create_task(self._call())

    @property
    def ended(self) -> bool:
        """Whether its connection has ended."""
        return self._task.done()

    def hang_up(self) -> None:
        """Close the connection without waiting for more."""
        self.left = True
        self._task.cancel()

    async def end(self) -> None:
        """Wait for the end, whichever. Raises what the transport raised."""
        await asyncio.wait((self._task,))
        if not self._task.cancelled():
            await self._task

    def outcome(self) -> Answer | Refusal:
        """What came. Raises `Wrong` when it is no whole answer and no typed error."""
        if self._response is None:
            raise Wrong(f"request {self.ask.number} got no answer")
        if self._response.status_code != 200:
            return self._refusal(self._response.json(), ())
        return self._of_stream() if self.stream else self._of_whole()

    async def _call(self) -> None:
        url = "/v1/completions"
        if not self.stream:
            self._response = await self._http.post(url, json=self._body)
            return
        async with self._http.stream("POST", url, json=self._body) as response:
            self._response = response
            if response.status_code != 200:
                await response.aread()
                return
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    self._take(line.removeprefix("data: "))

    def _take(self, data: str) -> None:
        event = data if data == "[DONE]" else orjson.loads(data)
        self._events.append(event)
        self.chunks += isinstance(event, dict) and bool(event.get("choices"))

    def _of_whole(self) -> Answer:
        assert self._response is not None
        body = self._response.json()
        (choice,) = body["choices"]
        answer = Answer(tuple(choice["token_ids"]), choice["text"], choice["finish_reason"])
        return self._checked(answer, body["usage"])

    def _of_stream(self) -> Answer | Refusal:
        *frames, last = self._events or [None]
        chunks = [frame for frame in frames if isinstance(frame, dict) and frame.get("choices")]
        choices = [chunk["choices"][0] for chunk in chunks]
        token_ids = tuple(token_id for choice in choices for token_id in choice["token_ids"])
        reasons = [choice["finish_reason"] for choice in choices]
        if isinstance(last, dict) and "error" in last:
            if any(reasons) or "[DONE]" in frames:
                raise Wrong(f"request {self.ask.number} ended and failed: {self._events}")
            return self._refusal(last, token_ids)
        if last != "[DONE]" or "[DONE]" in frames or [bool(r) for r in reasons] != _only_last(len(reasons)):
            raise Wrong(f"request {self.ask.number} did not end exactly once: {self._events}")
        answer = Answer(token_ids, "".join(choice["text"] for choice in choices), reasons[-1])
        return self._checked(answer, frames[-1]["usage"])

    def _checked(self, answer: Answer, usage: dict[str, int]) -> Answer:
        counts = {len(answer.token_ids), usage["completion_tokens"], self.ask.max_tokens}
        if len(counts) != 1 or usage["prompt_tokens"] != len(self.ask.prompt_token_ids):
            raise Wrong(f"request {self.ask.number} of {self.ask.max_tokens} tokens got {answer}, {usage}")
        return answer

    def _refusal(self, body: dict[str, Any], token_ids: tuple[int, ...]) -> Refusal:
        assert self._response is not None
        return Refusal(
            self._response.status_code,
            body["error"]["code"],
            self._response.headers.get("retry-after"),
            token_ids,
        )


def _only_last(count: int) -> list[bool]:
    return [False] * (count - 1) + [True]


@dataclass
class Volley:
    """All requests of one round, sent at once."""

    callers: list[Caller] = field(default_factory=list)

    @classmethod
    def send(
        cls, http: httpx.AsyncClient, wanted: Sequence[Ask], salt: str, *, stream: bool | None = None
    ) -> Self:
        """Send all. ``stream`` overrides what each ask says."""
        return cls([Caller(http, ask, salt, stream=stream) for ask in wanted])

    @property
    def staying(self) -> list[Caller]:
        """Those who did not hang up."""
        return [caller for caller in self.callers if not caller.left]

    async def end(self) -> None:
        """Wait for every one."""
        await asyncio.gather(*(caller.end() for caller in self.callers))

    def answers(self) -> dict[int, Answer]:
        """By number, of all who stayed. Raises `Wrong` for anything but whole answers."""
        found: dict[int, Answer] = {}
        for caller in self.staying:
            outcome = caller.outcome()
            if not isinstance(outcome, Answer):
                raise Wrong(f"request {caller.ask.number} was refused: {outcome}")
            found[caller.ask.number] = outcome
        return found

    def check(self, expected: dict[int, Answer]) -> None:
        """Raises `Wrong` for the first answer that is not as expected."""
        for number, answer in self.answers().items():
            if answer != expected[number]:
                raise Wrong(f"request {number}: {answer} instead of {expected[number]}")


def http_of(url: str) -> httpx.AsyncClient:
    """A client with as many connections as callers."""
    return httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, limits=httpx.Limits(max_connections=None))
