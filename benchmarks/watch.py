"""What a running server says of itself over HTTP: load, outcomes, and whether all of it has come to rest.

Knows: `/load`, `/metrics`, `/ready`. Does not know: processes, requests.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable

import httpx
import msgspec

from diptych.metrics.definitions import REQUESTS
from diptych.metrics.snapshot import ClusterSnapshot, WorkerSnapshot

PATIENCE_S = 180.0
POLL_S = 0.02

_OUTCOME = rf'^{REQUESTS.name}{{outcome="(\w+)"}} (\S+)$'


class Never(Exception):
    """Something that had to come true did not."""


async def until(
    condition: Callable[[], Awaitable[bool]], what: str, explain: Callable[[], str] = str
) -> None:
    """Poll until ``condition`` holds. Raises `Never` long after it should have."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not await condition():
        if time.monotonic() > deadline_s:
            raise Never(f"{what} {explain()}")
        await asyncio.sleep(POLL_S)


class Watch:
    """Asks one server."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def load(self) -> ClusterSnapshot:
        """Workers and queues now."""
        return msgspec.convert((await self._get("/load")).json(), ClusterSnapshot)

    async def worker(self, worker_id: str) -> WorkerSnapshot:
        """One of the workers now."""
        return next(seen for seen in (await self.load()).workers if seen.worker_id == worker_id)

    async def outcomes(self) -> dict[str, int]:
        """Ended requests since the start, by outcome."""
        found = re.findall(_OUTCOME, (await self._get("/metrics")).text, re.MULTILINE)
        return {outcome: int(float(value)) for outcome, value in found}

    async def restarts(self) -> dict[str, int]:
        """How often each worker was started again."""
        return {seen.worker_id: seen.restarts for seen in (await self.load()).workers}

    async def ready(self) -> bool:
        """Whether `/ready` says 200."""
        return (await self._http.get("/ready")).status_code == 200

    async def settled(self) -> None:
        """Wait until all workers are up, nothing runs or waits, no block, lease or reservation is held."""
        last: list[ClusterSnapshot] = []

        async def at_rest() -> bool:
            last[:] = [await self.load()]
            return _idle(last[0]) and all(_free(seen) for seen in last[0].workers) and await self.ready()

        await until(at_rest, "settled", lambda: str(last))

    async def _get(self, path: str) -> httpx.Response:
        return (await self._http.get(path)).raise_for_status()


def _idle(seen: ClusterSnapshot) -> bool:
    return seen.waiting_requests == seen.running_requests == 0


def _free(seen: WorkerSnapshot) -> bool:
    stats = seen.stats
    return (
        seen.up
        and not stats.busy
        and stats.waiting == stats.running == stats.queued_tokens == 0
        and stats.held_blocks == stats.leases == stats.reserved_blocks == 0
        and stats.free_blocks + stats.cached_blocks == seen.arena_blocks
    )
