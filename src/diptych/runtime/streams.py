"""The way from the driver to whoever waits for a request: its tokens, then its one report.

Knows: order and exactly-once delivery inside the head process. Does not know: text, HTTP, workers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol, TypeAlias

from diptych.domain.ids import RequestId
from diptych.domain.report import RequestReport
from diptych.domain.request import PromptLogprobs, Request, TokenOut

StreamItem: TypeAlias = TokenOut | PromptLogprobs | RequestReport
"""A `RequestReport` is always the last item, and there is exactly one."""


class RequestStream:
    """What one waiting client sees of its request. One producer, one consumer, one event loop."""

    def __init__(self, request_id: RequestId) -> None:
        self.request_id = request_id
        self._items: list[StreamItem] = []
        self._wake = asyncio.Event()

    def push(self, items: Sequence[StreamItem]) -> None:
        """Append items; called by the driver."""
        self._items.extend(items)
        self._wake.set()

    async def next_batch(self) -> list[StreamItem]:
        """All items that have come since the last call; waits for at least one."""
        await self._wake.wait()
        self._wake.clear()
        batch, self._items = self._items, []
        return batch


class Frontend(Protocol):
    """What the server (or the command line) needs of a running cluster."""

    def now_s(self) -> float:
        """Seconds on the cluster's monotonic clock."""
        ...

    def submit(self, request: Request, received_s: float) -> RequestStream:
        """Hand a tokenised request to the cluster. Never raises for load: a rejection is the report."""
        ...

    def stop(self, request_id: RequestId) -> None:
        """A stop string was found: the output is complete. The report (finished, stop) follows."""
        ...

    def abort(self, request_id: RequestId) -> None:
        """The client has gone. The report (aborted) follows. Unknown or ended ids are ignored."""
        ...

    def ready(self) -> bool:
        """Whether a prefill → decode path exists and has worked."""
        ...
