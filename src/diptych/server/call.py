"""One API call: its sequences run side by side, and end together.

Knows: submitting, waiting, stopping and aborting; that nothing stays behind in the cluster whatever happens
here. Does not know: dialects, HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar
from uuid import uuid4

import msgspec
from starlette.types import Receive

from diptych.domain.ids import RequestId
from diptych.domain.kv import extend_hashes
from diptych.domain.report import Moment
from diptych.domain.request import Request, TokenOut
from diptych.runtime.streams import Frontend, RequestStream, StreamItem
from diptych.server.choice import Choice, Piece
from diptych.server.errors import RequestFailed, failure_of_report
from diptych.server.model import ServedModel
from diptych.server.observe import Observer
from diptych.server.openai.ask import Ask

T = TypeVar("T")


class ClientLeft(Exception):
    """The client closed its connection."""


class Call:
    """The sequences of one call. `close` must be called in every case."""

    def __init__(self, call_id: str, ask: Ask, frontend: Frontend, observer: Observer) -> None:
        self.call_id = call_id
        """The id of the answer. A client may have chosen it, so the requests inside the cluster get more."""
        self.ask = ask
        self.choices: list[Choice] = []
        self._frontend = frontend
        self._observer = observer
        self._streams: list[RequestStream] = []
        self._waiting: dict[asyncio.Task[list[StreamItem]], int] = {}
        self._last_s: dict[int, float] = {}
        self._stopped: set[int] = set()
        self._closed = False

    def submit(self, model: ServedModel, salt: str, received_s: float) -> None:
        """Hand all sequences to the cluster."""
        unique = self.call_id if self.ask.request_id is None else f"{self.call_id}-{uuid4().hex[:12]}"
        for index in range(len(self.ask.prompts) * self.ask.n):
            request = self._request(RequestId(f"{unique}-{index}"), index, model, salt)
            prompt = self.ask.prompts[index // self.ask.n]
            choice = Choice(index, request.request_id, prompt, self.ask.output, model.tokenizer)
            self._streams.append(self._frontend.submit(request, received_s))
            self.choices.append(choice)
            self._listen(index)

    async def next(self, timeout_s: float | None = None) -> list[tuple[Choice, Piece | None]] | None:
        """What has come for each choice; None if nothing did in time, an empty list if all have ended.

        A choice whose report has come is in the list exactly once as ``ended``. Raises `RequestFailed` if one
        ended without an answer.
        """
        if not self._waiting:
            return []
        done, _ = await asyncio.wait(self._waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            return None
        came = sorted((self._waiting.pop(task), task) for task in done)
        return [(self.choices[index], self._feed(index, task.result())) for index, task in came]

    def close(self) -> None:
        """Abort what has not ended, record what has. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        for task in self._waiting:
            task.cancel()
        for choice, stream in zip(self.choices, self._streams, strict=False):
            self._record(choice, stream)

    def _request(self, request_id: RequestId, index: int, model: ServedModel, salt: str) -> Request:
        place, copy = divmod(index, self.ask.n)
        prompt, sampling = self.ask.prompts[place], self.ask.samplings[place]
        root = model.cache_root(salt)
        return Request(
            request_id=request_id,
            prompt_token_ids=prompt.token_ids,
            cache_root=root,
            block_hashes=extend_hashes(root, prompt.token_ids, model.block_tokens),
            sampling=msgspec.structs.replace(sampling, seed=(sampling.seed + copy) % 2**63),
            priority=self.ask.priority,
        )

    def _listen(self, index: int) -> None:
        self._waiting[asyncio.create_task(self._streams[index].next_batch())] = index

    def _feed(self, index: int, items: list[StreamItem]) -> Piece | None:
        self._observe(index, items)
        choice = self.choices[index]
        piece = choice.feed(items)
        if choice.must_stop and index not in self._stopped:
            self._stopped.add(index)
            self._frontend.stop(choice.request_id)
        if choice.report is None:
            self._listen(index)
        elif not choice.complete:
            raise RequestFailed(failure_of_report(choice.report))
        return piece

    def _observe(self, index: int, items: list[StreamItem]) -> None:
        tokens = sum(isinstance(item, TokenOut) for item in items)
        if not tokens:
            return
        now_s = self._frontend.now_s()
        last_s = self._last_s.get(index)
        self._observer.gaps(tokens, None if last_s is None else now_s - last_s)
        self._last_s[index] = now_s

    def _record(self, choice: Choice, stream: RequestStream) -> None:
        tokens = len(choice.token_ids)
        if choice.report is None:
            self._frontend.abort(choice.request_id)
            self._observer.drain(self.call_id, stream, tokens)
            return
        moments = {**choice.report.moments, Moment.FLUSHED: self._frontend.now_s()}
        report = msgspec.structs.replace(choice.report, moments=moments)
        self._observer.ended(self.call_id, report, tokens)


# ---------------------------------------------------------------- the client's side


class Client:
    """Watches the connection of one call. Made after the body has been read: one reader only."""

    def __init__(self, receive: Receive) -> None:
        self._gone = asyncio.create_task(_until_gone(receive))

    async def race(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``, unless the client leaves first: then it is cancelled, waited for, and
        `ClientLeft` is raised."""
        task = asyncio.create_task(work)
        try:
            await asyncio.wait((task, self._gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))
        if task.cancelled():
            raise ClientLeft
        return task.result()

    def forget(self) -> None:
        """Stop watching."""
        self._gone.cancel()


async def _until_gone(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
