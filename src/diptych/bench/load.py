"""Load: requests on schedule, or a fixed number in flight.

Knows: when requests are due, sessions, how to end early. Does not know: HTTP, metrics.

The open loop never waits for an answer before it sends what is due: a slow server meets the queue that its
clients would build. A request's t0 is the moment when it was due, so that a late client can not flatter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from diptych.bench.bodies import Bodies
from diptych.bench.client import Sender
from diptych.bench.sample import Outcome, Sample
from diptych.bench.schedule import Due, Schedule
from diptych.domain.clock import Clock

SLACK_S = 0.02
"""A body is rendered ahead only while nothing is due within this time: rendering one holds up the loop."""


class Waker(Protocol):
    """Waits on the run's clock."""

    async def until(self, at_s: float) -> None:
        """Return once the clock shows ``at_s``."""
        ...


@dataclass
class Loaded:
    """What was sent."""

    samples: list[Sample] = field(default_factory=list)
    not_sent: int = 0
    """Due within the limits, but the run ended first; or due only after a session's pause, beyond them."""
    interrupted: bool = False


@dataclass(frozen=True)
class Means:
    """What a load is made with."""

    sender: Sender
    path: str
    bodies: Bodies
    clock: Clock
    """Shows seconds since the start of the run."""
    on_change: Callable[[Loaded], None] = lambda _: None


class _Tasks:
    """What runs at one time. A failure of ours ends all of it and is raised."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._running: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        self._error: BaseException | None = None

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` beside the rest."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._end)

    async def all_ended(self) -> None:
        """Wait until nothing runs, or ``stop`` is set; cancel what runs then. Raises what a task raised."""
        stopping = asyncio.create_task(self._stop.wait())
        ending = asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait((stopping, ending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            left = (stopping, ending, *self._running)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        if self._error is not None:
            raise self._error

    def _end(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error = self._error or error
        if not self._running or self._error is not None:
            self._ended.set()


class OpenLoop:
    """Sends each request when it is due."""

    def __init__(self, schedule: Schedule, means: Means, alarm: Waker, duration_s: float | None) -> None:
        self._schedule = schedule
        self._means = means
        self._alarm = alarm
        self._duration_s = duration_s
        self._loaded = Loaded()

    async def run(self, stop: asyncio.Event) -> Loaded:
        """Until every answer has ended, or ``stop`` is set: then what runs is cut off."""
        self._tasks = _Tasks(stop)
        self._tasks.begin(self._pace())
        await self._tasks.all_ended()
        return _closed(self._loaded, self._schedule, stop)

    async def _pace(self) -> None:
        first = [request for request in self._schedule.requests if request.after is None]
        ahead = iter(first)
        for request in first:
            await self._prepare(ahead, request)
            await self._alarm.until(request.t_s)
            self._launch(request, request.t_s)

    async def _prepare(self, ahead: Iterator[Due], request: Due) -> None:
        """Use the time until ``request`` is due to render bodies."""
        means = self._means
        while means.clock.now_s() + SLACK_S < request.t_s and not means.bodies.full:
            coming = next(ahead, None)
            if coming is None:
                return
            if coming.index >= request.index:
                means.bodies.prepare(coming)
                await asyncio.sleep(0)  # what has come in meanwhile gets its time stamp

    def _launch(self, request: Due, due_s: float) -> None:
        sample = _sample(request, due_s)
        self._loaded.samples.append(sample)
        self._tasks.begin(self._one(request, sample))
        self._means.on_change(self._loaded)

    async def _one(self, request: Due, sample: Sample) -> None:
        means = self._means
        await means.sender.send(means.path, means.bodies.take(request), sample)
        means.on_change(self._loaded)
        follower = self._schedule.followers.get(request.index)
        if follower is not None:
            self._tasks.begin(self._follow(follower, sample.end_s or means.clock.now_s()))

    async def _follow(self, request: Due, ended_s: float) -> None:
        """The session goes on, also after a failure: its user tries the next thing."""
        due_s = max(request.t_s, ended_s + request.delay_s)
        if self._duration_s is not None and due_s >= self._duration_s:
            return
        self._means.bodies.prepare(request)
        await self._alarm.until(due_s)
        self._launch(request, due_s)


class ClosedLoop:
    """Keeps a number of requests in flight, in the order of the workload; times and pauses do not count."""

    def __init__(self, schedule: Schedule, means: Means, concurrency: int, duration_s: float | None) -> None:
        self._schedule = schedule
        self._means = means
        self._concurrency = concurrency
        self._duration_s = duration_s
        self._loaded = Loaded()

    async def run(self, stop: asyncio.Event) -> Loaded:
        """Until all requests have been sent and have ended, or the duration is over, or ``stop`` is set."""
        coming = iter(self._schedule.requests)
        tasks = _Tasks(stop)
        for _ in range(self._concurrency):
            tasks.begin(self._work(coming))
        await tasks.all_ended()
        return _closed(self._loaded, self._schedule, stop)

    async def _work(self, coming: Iterator[Due]) -> None:
        means = self._means
        for request in coming:
            body = means.bodies.take(request)
            now_s = means.clock.now_s()
            if self._duration_s is not None and now_s >= self._duration_s:
                return
            sample = _sample(request, now_s)
            self._loaded.samples.append(sample)
            await means.sender.send(means.path, body, sample)
            means.on_change(self._loaded)


def _closed(loaded: Loaded, schedule: Schedule, stop: asyncio.Event) -> Loaded:
    loaded.interrupted = stop.is_set()
    loaded.not_sent = len(schedule.requests) - len(loaded.samples)
    return loaded


def _sample(request: Due, due_s: float) -> Sample:
    return Sample(
        index=request.index,
        session_id=request.session_id,
        input_tokens=request.input_tokens,
        output_tokens=request.output_tokens,
        due_s=due_s,
        outcome=Outcome.UNFINISHED,
    )
