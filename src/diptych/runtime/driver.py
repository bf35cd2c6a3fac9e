"""Real time around the orchestrator: facts go in as events, its commands are carried out to the letter.

Every decision is the orchestrator's. The driver knows the clock, who is connected, what each client has been
given, and the order that makes it exact: tokens before the events of the same report, everything a worker
said before its loss, the last token before the report.
Does not know: policies, processes (a port can be killed, how is the supervisor's business), text, HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, assert_never

from diptych.domain.clock import Clock
from diptych.domain.commands import (
    Command,
    EndRequest,
    KillWorker,
    LeaseBlocks,
    ReleaseLease,
    Send,
    StartPrefill,
    WakeAt,
    WorkerCommand,
)
from diptych.domain.errors import Bug, WorkerLost
from diptych.domain.events import (
    Bounced,
    ClientGone,
    Dropped,
    Event,
    HeadResumed,
    Heartbeat,
    PrefillDone,
    RequestArrived,
    StepReport,
    StopMatched,
    Streamed,
    Tick,
    WorkerEvent,
    WorkerJoined,
    WorkerLostEvent,
    WorkerSaid,
)
from diptych.domain.ids import BlockId, LeaseId, RequestId, WorkerId
from diptych.domain.lifecycle import State
from diptych.domain.report import RequestReport
from diptych.domain.request import Request
from diptych.domain.worker import WorkerInfo, WorkerStats
from diptych.runtime.live import LiveRequests
from diptych.runtime.streams import RequestStream

log = logging.getLogger("diptych.runtime")

PULSE_S = 0.2
"""How often the head notes that it lives."""

PAUSE_S = 0.8
"""A gap of this length between two notes means that the head itself stood still (a stopped process, a starved
core): what workers said meanwhile waits unread, and their silence means nothing."""

Journal = Callable[[float, Event, list[Command]], None]
"""Sees every event with its time and the commands that it caused, in order: enough to replay the core."""


class Core(Protocol):
    """What the driver needs of the orchestrator."""

    def handle(self, event: Event, now_s: float) -> list[Command]:
        """Decide."""
        ...

    def adopted_leases(self, worker_id: WorkerId) -> Mapping[LeaseId, tuple[BlockId, ...]]:
        """Leases that a next incarnation of this worker must honour."""
        ...


class WorkerPort(Protocol):
    """One incarnation that has joined."""

    def send(self, command: WorkerCommand) -> None:
        """Queue a command; never blocks. A worker that does not read is ended by the port itself."""
        ...

    def kill(self, reason: str) -> None:
        """End it for certain; `Driver.lost` follows."""
        ...


class _Joined(NamedTuple):
    info: WorkerInfo
    port: WorkerPort


class Driver:
    """A `Frontend` for the server and the sink of everything that workers say. Lives on one event loop."""

    def __init__(self, core: Core, clock: Clock, journal: Journal | None = None) -> None:
        self.requests = LiveRequests()
        self.fatal: Bug | None = None
        """Set once when the core broke; nothing is served any more."""
        self.bounces = 0
        """Attempts that workers gave back because KV memory was full."""
        self._core = core
        self._clock = clock
        self._journal = journal
        self._joined: dict[WorkerId, _Joined] = {}
        self._stats: dict[WorkerId, WorkerStats] = {}
        self._wake: asyncio.TimerHandle | None = None
        self._pulse: asyncio.TimerHandle | None = None
        self._alive_s = clock.now_s()
        self._proven = False
        self._closed = False
        self._on_change: list[Callable[[], None]] = []

    # ------------------------------------------------------------ Frontend

    def now_s(self) -> float:
        """Seconds on the cluster's monotonic clock."""
        return self._clock.now_s()

    def submit(self, request: Request, received_s: float) -> RequestStream:
        """Hand a tokenised request to the orchestrator. Raises `Bug` when its id is in use."""
        stream = self.requests.add(request.request_id).stream
        if self._closed:
            self._fail(request.request_id, "the cluster is shutting down")
        else:
            arrived = RequestArrived(request=request, received_s=received_s, tokenised_s=self.now_s())
            self._decide(arrived)
        return stream

    def stop(self, request_id: RequestId) -> None:
        """A stop string was found. Unknown or ended ids are ignored."""
        if request_id in self.requests:
            self._decide(StopMatched(request_id))

    def abort(self, request_id: RequestId) -> None:
        """The client has gone. Unknown or ended ids are ignored."""
        if request_id in self.requests:
            self._decide(ClientGone(request_id))

    def ready(self) -> bool:
        """Whether a prefill → decode path exists and has worked since the last time that none existed."""
        return self._proven and bool(self._joined) and not self._closed

    # ------------------------------------------------------------ what workers say

    def adopted_leases(self, worker_id: WorkerId) -> dict[LeaseId, tuple[BlockId, ...]]:
        """Leases to hand to an incarnation in the same breath as `joined`."""
        return dict(self._core.adopted_leases(worker_id))

    def joined(self, info: WorkerInfo, port: WorkerPort) -> None:
        """An incarnation is ready."""
        if self._pulse is None:
            self._alive_s = self.now_s()
            self._pulse_on()
        self._joined[info.worker_id] = _Joined(info, port)
        self._decide(WorkerJoined(info))
        self._changed()

    def heard(self, info: WorkerInfo, report: StepReport) -> None:
        """Tokens to their streams first, then the events, one by one."""
        self.requests.deliver(report.tokens, report.prompt_logprobs)
        said_s = min(report.t_s, self.now_s())
        for event in report.events:
            self.bounces += isinstance(event, Bounced)
            streamed = self._streamed_for(event)
            self._decide(WorkerSaid(info.worker_id, info.incarnation, said_s, event, streamed))
        if report.stats is not None:
            self.beat(Heartbeat(info.worker_id, info.incarnation, report.stats))

    def beat(self, heartbeat: Heartbeat) -> None:
        """A sign of life."""
        self._stats[heartbeat.worker_id] = heartbeat.stats
        self._decide(heartbeat)

    def lost(self, worker_id: WorkerId, incarnation: int, reason: str) -> None:
        """An incarnation that had joined is dead, and all it ever sent has been through `heard`."""
        self._joined.pop(worker_id, None)
        if not self._joined:
            self._proven = False
        self._decide(WorkerLostEvent(worker_id, incarnation, reason, self.requests.streamed()))
        self._changed()

    # ------------------------------------------------------------ for the cluster

    def workers(self) -> tuple[WorkerInfo, ...]:
        """Incarnations that are joined now, by worker id."""
        return tuple(self._joined[worker_id].info for worker_id in sorted(self._joined))

    def stats(self, worker_id: WorkerId) -> WorkerStats:
        """What a worker last said of its load, in this life or an earlier one."""
        return self._stats.get(worker_id, WorkerStats())

    @property
    def proven(self) -> bool:
        """Whether a probe has worked since the last time that no worker was there."""
        return self._proven

    def mark_proven(self) -> None:
        """A probe went through prefill and decode."""
        self._proven = bool(self._joined)

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back whenever a worker joined or was lost."""
        self._on_change.append(callback)

    def close(self) -> None:
        """Serve nothing more; every request that still waits gets its report."""
        self._closed = True
        for timer in (self._wake, self._pulse):
            if timer is not None:
                timer.cancel()
        for request_id in self.requests.ids():
            self._fail(request_id, "the cluster is shutting down")

    # ------------------------------------------------------------ events in, commands out

    def _decide(self, event: Event) -> None:
        self._notice_pause()
        self._handle(event)

    def _notice_pause(self) -> None:
        """Before anything else after a pause: tell the core that it was ours. Deadlines start anew."""
        now_s = self.now_s()
        paused_s, self._alive_s = now_s - self._alive_s, now_s
        if self._pulse is not None and not self._closed and paused_s > PAUSE_S:
            log.warning("the head stood still for %.1f s", paused_s)
            self._handle(HeadResumed(paused_s))

    def _pulse_on(self) -> None:
        self._notice_pause()
        self._pulse = asyncio.get_running_loop().call_later(PULSE_S, self._pulse_on)

    def _handle(self, event: Event) -> None:
        if self._closed:
            return
        now_s = self.now_s()
        try:
            commands = self._core.handle(event, now_s)
        except Exception as error:  # noqa: BLE001 - boundary of the core: a broken invariant ends the service
            self._give_up(event, error)
            return
        if self._journal is not None:
            self._journal(now_s, event, commands)
        for command in commands:
            self._perform(command)

    def _perform(self, command: Command) -> None:
        match command:
            case Send():
                self._send(command)
            case KillWorker():
                joined = self._incarnation(command.worker_id, command.incarnation)
                if joined is not None:
                    joined.port.kill(command.reason)
            case EndRequest():
                self.requests.end(command.report)
            case WakeAt():
                self._wake_at(command.t_s)
            case _:
                assert_never(command)

    def _send(self, send: Send) -> None:
        request_id = _request_of(send.command)
        request = None if request_id is None else self.requests.get(request_id)
        if request is not None:
            request.sent(send.command)
        joined = self._incarnation(send.worker_id, send.incarnation)
        if joined is not None:
            joined.port.send(send.command)

    def _incarnation(self, worker_id: WorkerId, incarnation: int) -> _Joined | None:
        joined = self._joined.get(worker_id)
        return joined if joined is not None and joined.info.incarnation == incarnation else None

    def _wake_at(self, t_s: float) -> None:
        if self._wake is not None:
            self._wake.cancel()
        delay_s = max(0.0, t_s - self.now_s())
        self._wake = asyncio.get_running_loop().call_later(delay_s, self._tick, t_s)

    def _tick(self, wanted_s: float) -> None:
        """Event loops may be a little early; the core is only told of a time that has come."""
        self._wake = None
        if self.now_s() < wanted_s:
            self._wake_at(wanted_s)
        else:
            self._decide(Tick())

    def _streamed_for(self, event: WorkerEvent) -> Streamed | None:
        match event:
            case Bounced() | Dropped() | PrefillDone():
                request = self.requests.get(event.request_id)
                return None if request is None else request.streamed()
            case _:
                return None

    def _changed(self) -> None:
        for callback in self._on_change:
            callback()

    def _fail(self, request_id: RequestId, message: str) -> None:
        self.requests.end(
            RequestReport(
                request_id=request_id, state=State.FAILED, error_code=WorkerLost.code, error_message=message
            )
        )

    def _give_up(self, event: Event, error: Exception) -> None:
        """The core's state cannot be trusted any more: end every request and say so, rather than hang."""
        log.critical("the orchestrator failed on %r", event, exc_info=error)
        self.fatal = error if isinstance(error, Bug) else Bug(f"{type(error).__name__}: {error}")
        self.close()
        self._changed()


def _request_of(command: WorkerCommand) -> RequestId | None:
    match command:
        case StartPrefill():
            return command.work.request_id
        case LeaseBlocks() | ReleaseLease():
            return None
        case _:
            return command.request_id
