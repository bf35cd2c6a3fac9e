"""Keeps every worker alive: starts it, starts it again with growing pauses, ends all of them at the close.

Knows: restarts and back-off, when a failure at the start is final. Does not know: messages, decisions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from diptych.domain.cluster import LimitsSpec
from diptych.domain.errors import ClusterError, DiptychError, SpecError
from diptych.runtime.dealing import WorkerShare
from diptych.runtime.incarnation import Ending, Incarnation, Setup, WorkerSink
from diptych.runtime.link import Listener

log = logging.getLogger("diptych.runtime")

START_ATTEMPTS = 3
"""A worker that has never been ready and died this often will not get ready by itself."""

GRACE_S = 5.0
"""How long a worker may take to end by itself at the close (the step under way)."""


class StartupError(ClusterError):
    """A worker could not be started, and trying again would not help."""

    code = "startup_failed"


@dataclass
class Backoff:
    """Pauses between restarts: doubling from ``first_s`` to ``max_s``, from the start after a stable life."""

    first_s: float
    max_s: float
    failures: int = 0

    def next_s(self, lived_s: float) -> float:
        """The pause after a life of ``lived_s`` seconds (counted from ready; 0 if never)."""
        self.failures = 1 if lived_s >= self.max_s else self.failures + 1
        return min(self.max_s, self.first_s * 2.0 ** min(self.failures - 1, 32))


@dataclass
class Slot:
    """One worker through all its lives."""

    share: WorkerShare
    backoff: Backoff
    incarnation: Incarnation | None = None
    number: int = 0
    was_ready: bool = False
    last_end: str | None = None

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return max(0, self.number - 1)


@dataclass
class Supervisor:
    """All slots of one memory domain. ``failed`` is told the error that makes a start final."""

    setup: Setup
    limits: LimitsSpec
    listener: Listener
    sink: WorkerSink
    failed: Callable[[DiptychError], None]
    slots: list[Slot] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _closing: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self, shares: Sequence[WorkerShare]) -> None:
        """Start a worker for each share and keep it alive from now on."""
        for share in shares:
            slot = Slot(share, Backoff(self.limits.restart_backoff_s, self.limits.restart_backoff_max_s))
            self.slots.append(slot)
            self._tasks.append(asyncio.create_task(self._keep(slot), name=f"keep {share.worker_id}"))

    async def close(self, grace_s: float = GRACE_S) -> None:
        """End all workers: SIGTERM, then SIGKILL. Returns when the last process is gone."""
        self._closing.set()
        if not self._tasks:
            return
        for incarnation in self._living():
            incarnation.terminate()
        _, late = await asyncio.wait(self._tasks, timeout=grace_s)
        if late:
            for incarnation in self._living():
                incarnation.kill("did not end by itself")
            await asyncio.wait(late)

    def _living(self) -> list[Incarnation]:
        return [slot.incarnation for slot in self.slots if slot.incarnation is not None]

    async def _keep(self, slot: Slot) -> None:
        while not self._closing.is_set():
            ending = await self._live(slot)
            if self._closing.is_set():
                return
            error = _final(slot, ending)
            if error is not None:
                self.failed(error)
                return
            pause_s = slot.backoff.next_s(self._lived_s(ending))
            log.warning("%s %s; restart in %.1f s", slot.share.worker_id, ending.why, pause_s)
            await self._pause(pause_s)

    async def _live(self, slot: Slot) -> Ending:
        slot.number += 1
        slot.incarnation = Incarnation(slot.number, slot.share, self.setup, self.listener, self.sink)
        try:
            ending = await slot.incarnation.live()
        except OSError as error:
            ending = Ending(f"could not be started: {error}", None, None, ())
        finally:
            slot.incarnation = None
        slot.was_ready = slot.was_ready or ending.ready_at_s is not None
        slot.last_end = ending.why
        return ending

    def _lived_s(self, ending: Ending) -> float:
        return 0.0 if ending.ready_at_s is None else self.sink.now_s() - ending.ready_at_s

    async def _pause(self, pause_s: float) -> None:
        try:
            await asyncio.wait_for(self._closing.wait(), pause_s)
        except TimeoutError:
            return


def _final(slot: Slot, ending: Ending) -> DiptychError | None:
    """The error that makes another try pointless, if there is one: a worker that has been ready once is
    started again whatever happens."""
    if slot.was_ready:
        return None
    name, failure = slot.share.worker_id, ending.startup_error
    if failure is not None and failure.code == SpecError.code:
        return SpecError(failure.message)
    if slot.number < START_ATTEMPTS:
        return None
    output = "\n".join(f"  {line}" for line in ending.tail[-8:])
    words = f"worker {name} did not start in {slot.number} attempts: {ending.why}\n{output}"
    return StartupError(words.rstrip())
