"""Virtual time around the orchestrator: a heap of things to come, and the rules of the road of the real
driver.

Knows: the order of messages, links, who is alive, when requests arrive and end. Does not know: policies (the
orchestrator and the schedulers are the production ones), what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, assert_never

from diptych.domain.commands import (
    Command,
    EndRequest,
    KillWorker,
    Send,
    StartDecode,
    StartPrefill,
    WakeAt,
    WorkerCommand,
)
from diptych.domain.events import (
    Bounced,
    Dropped,
    Event,
    Heartbeat,
    PrefillDone,
    PrefillStarted,
    RequestArrived,
    StepReport,
    Streamed,
    Tick,
    WorkerEvent,
    WorkerJoined,
    WorkerLostEvent,
    WorkerSaid,
)
from diptych.domain.ids import RequestId, WorkerId
from diptych.domain.report import RequestReport
from diptych.domain.request import Request
from diptych.orchestration.core import Orchestrator
from diptych.planning.agenda import OTHERS, STEP_ENDS, Agenda, Call, Coming
from diptych.planning.host import Host
from diptych.planning.link import VirtualLink
from diptych.planning.sessions import Sessions
from diptych.planning.worker import FILLER, Live, Timeline, VirtualWorker
from diptych.scheduling import Fetch
from diptych.workload.record import Arrival

Journal = Callable[[float, Event, list[Command]], None]
"""As the real driver's: every event with its time and the commands that it caused, in order."""


class Delays:
    """How long orders are on their way to a worker. Seconds; the last one for each token of KV."""

    __slots__ = ("_dispatch_s", "_handoff_s", "_handoff_token_s")

    def __init__(self, dispatch_s: float = 0.0, handoff_s: float = 0.0, handoff_token_s: float = 0.0) -> None:
        self._dispatch_s = dispatch_s
        self._handoff_s = handoff_s
        self._handoff_token_s = handoff_token_s

    def of(self, command: WorkerCommand) -> float:
        """Inside a memory domain a handoff is an order; to another one, the link takes the time."""
        if type(command) is StartPrefill:
            return self._dispatch_s
        if type(command) is StartDecode and command.source is None:
            return self._handoff_s + self._handoff_token_s * command.computed_tokens
        return 0.0


class Audience(Protocol):
    """Who hears how requests fare."""

    def ended(self, arrival: Arrival, report: RequestReport, now_s: float) -> None:
        """One request has ended."""
        ...


class VirtualDriver(Timeline):
    """Runs a workload to its end. All methods but `run` are called by the heap or by workers."""

    def __init__(
        self,
        core: Orchestrator,
        make_request: Callable[[int, Arrival], Request],
        audience: Audience,
        link: VirtualLink | None,
        delays: Mapping[WorkerId, Delays],
        kv_bytes_per_token: int,
        journal: Journal | None = None,
        host: Host | None = None,
    ) -> None:
        self.now_s = 0.0
        self.events = 0
        self.lives: dict[RequestId, Live] = {}
        self._core = core
        self._make_request = make_request
        self._audience = audience
        self._link = link
        self._delays = delays
        self._token_bytes = kv_bytes_per_token
        self._journal = journal
        self._host = host
        self._workers: dict[WorkerId, VirtualWorker] = {}
        self._arrivals: dict[RequestId, Arrival] = {}
        self._sessions = Sessions()
        self._agenda = Agenda()
        self._numbered = 0
        self._wish_s: float | None = None
        self._alarm_s: float | None = None
        self._source: Iterator[Arrival] = iter(())
        self._exhausted = False
        self._coming = 0

    # ------------------------------------------------------------ time

    def run(self, arrivals: Iterator[Arrival]) -> None:
        """Until every request has ended and no arrival is left. Raises `Bug` when requests are left that
        nothing will ever wake."""
        self._source = arrivals
        self._pull()
        agenda = self._agenda
        while True:
            agenda.settle()
            if agenda.empty() or self._done():
                return
            if self._host is not None and self._host.share(self.now_s):
                continue
            what = agenda.pop()
            if what.t_s > self.now_s:
                self.now_s = what.t_s
            what.happen()

    def at(self, t_s: float, action: Callable[..., None], *values: object) -> None:
        """Call ``action`` at ``t_s``, or now if that has passed."""
        self._at(t_s, Call(action, values))

    def _at(self, t_s: float, what: Coming) -> None:
        self._agenda.at(t_s if t_s > self.now_s else self.now_s, OTHERS, what)

    def _done(self) -> bool:
        return self._exhausted and not (self._arrivals or self._coming or self._sessions.waiting)

    # ------------------------------------------------------------ requests

    def _pull(self) -> None:
        """The next arrival of the workload; only one is looked ahead."""
        arrival = next(self._source, None)
        if arrival is None:
            self._exhausted = True
        else:
            self._at(arrival.t_s, _Due(self, arrival))

    def due(self, arrival: Arrival) -> None:
        """An arrival's time has come; if its session is not ready for it, it waits."""
        self._pull()
        t_s = self.now_s if arrival.session_id is None else self._sessions.hold(arrival)
        if t_s is None:
            return
        if t_s <= self.now_s:
            self._arrive(arrival)
        else:
            self._arrive_at(t_s, arrival)

    def _arrive_at(self, t_s: float, arrival: Arrival) -> None:
        self._coming += 1
        self.at(t_s, self._come, arrival)

    def _come(self, arrival: Arrival) -> None:
        self._coming -= 1
        self._arrive(arrival)

    def _arrive(self, arrival: Arrival) -> None:
        request = self._make_request(self._numbered, arrival)
        self._numbered += 1
        name = request.request_id
        self.lives[name] = Live(arrival.output_tokens)
        self._arrivals[name] = arrival
        now_s = self.now_s
        self._decide(RequestArrived(request=request, received_s=now_s, tokenised_s=now_s))

    def _ended(self, report: RequestReport) -> None:
        name = report.request_id
        arrival = self._arrivals.pop(name)
        del self.lives[name]
        self._audience.ended(arrival, report, self.now_s)
        following = self._sessions.ended(arrival, self.now_s)
        if following is not None:
            self._arrive_at(*following)

    # ------------------------------------------------------------ workers

    def join(self, worker: VirtualWorker) -> None:
        """A worker is there from now on."""
        self._workers[worker.worker_id] = worker
        if self._host is not None:
            self._host.workers = tuple(self._workers.values())
        self._decide(WorkerJoined(worker.info))

    def worker(self, worker_id: WorkerId) -> VirtualWorker | None:
        """The living incarnation."""
        return self._workers.get(worker_id)

    def lose(self, worker_id: WorkerId, reason: str) -> None:
        """It is dead, and what it said has been heard."""
        worker = self._workers.pop(worker_id, None)
        if worker is None:
            return
        for one in (worker, *self._workers.values()):
            one.settle(self.now_s)
        streamed = tuple(self._streamed(name, worker) for name in self.lives)
        self._decide(WorkerLostEvent(worker_id, worker.incarnation, reason, streamed))

    def say(self, worker: VirtualWorker, report: StepReport) -> None:
        """See `Timeline`."""
        self._agenda.soon(_Report(self, worker, report))

    def wake_at(self, worker: VirtualWorker, t_s: float, ticket: int) -> None:
        """See `Timeline`."""
        self._agenda.at(t_s, STEP_ENDS, _Wake(self, worker, ticket))

    def fetch(self, worker: VirtualWorker, fetch: Fetch) -> None:
        """See `Timeline`."""
        if self._link is None:
            self._agenda.soon(Call(worker.fetched, (fetch, self.now_s, True)))
            return
        live = self.lives.get(fetch.request_id)
        took_s = 0.0 if live is None else max(0.0, live.last_token_s - live.prefill_started_s)
        path = (fetch.source, worker.worker_id)
        t_s = self._link.arrives_s(path, fetch.tokens * self._token_bytes, took_s, self.now_s)
        self.at(t_s, self._fetched, worker, fetch)

    def _fetched(self, worker: VirtualWorker, fetch: Fetch) -> None:
        if self.living(worker):
            worker.fetched(fetch, self.now_s, fetch.source in self._workers)

    def living(self, worker: VirtualWorker) -> bool:
        """Whether it is the living incarnation."""
        return self._workers.get(worker.worker_id) is worker

    def hear(self, worker: VirtualWorker, report: StepReport) -> None:
        """What a worker has said; the dead are not heard."""
        if not self.living(worker):
            return
        worker_id, incarnation, t_s = worker.worker_id, worker.incarnation, report.t_s
        for event in report.events:
            streamed = self._note(event, t_s)
            self._decide(WorkerSaid(worker_id, incarnation, t_s, event, streamed))
        if report.stats is not None:
            self._decide(Heartbeat(worker_id, incarnation, report.stats))

    def _note(self, event: WorkerEvent, t_s: float) -> Streamed | None:
        if type(event) is PrefillStarted:
            live = self.lives.get(event.request_id)
            if live is not None:
                live.prefill_started_s = t_s
        elif type(event) is Bounced or type(event) is Dropped or type(event) is PrefillDone:
            live = self.lives.get(event.request_id)
            return None if live is None else Streamed(event.request_id, (FILLER,) * live.emitted)
        return None

    def _streamed(self, name: RequestId, dead: VirtualWorker) -> Streamed:
        live = self.lives[name]
        for worker in (dead, *self._workers.values()):
            emitted = worker.emitted(name)
            if emitted is not None:
                live.emitted = emitted if worker is dead else live.emitted
                return Streamed(name, (FILLER,) * emitted)
        return Streamed(name, (FILLER,) * live.emitted)

    # ------------------------------------------------------------ events in, commands out

    def _decide(self, event: Event) -> None:
        self.events += 1
        commands = self._core.handle(event, self.now_s)
        if self._journal is not None:
            self._journal(self.now_s, event, commands)
        for command in commands:
            self._perform(command)

    def _perform(self, command: Command) -> None:
        if type(command) is Send:
            self._send(command)
        elif type(command) is EndRequest:
            self._ended(command.report)
        elif type(command) is WakeAt:
            self._wake_core_at(command.t_s)
        elif type(command) is KillWorker:
            self._agenda.soon(Call(self.lose, (command.worker_id, command.reason)))
        else:
            assert_never(command)

    def _send(self, send: Send) -> None:
        worker = self._workers.get(send.worker_id)
        if worker is None or worker.incarnation != send.incarnation:
            return
        command = send.command
        delay_s = self._delays[send.worker_id].of(command)
        order = _Order(self, worker, command)
        if delay_s > 0:
            self._at(self.now_s + delay_s, order)
        else:
            self._agenda.soon(order)

    def _wake_core_at(self, t_s: float) -> None:
        """The newest wish counts. A wish that moves later costs nothing until the old time has come."""
        self._wish_s = t_s
        if self._alarm_s is None or t_s < self._alarm_s:
            self._alarm_s = t_s
            self.at(t_s, self._tick, t_s)

    def _tick(self, set_for_s: float) -> None:
        if set_for_s != self._alarm_s:
            return
        wish_s, self._alarm_s = self._wish_s, None
        if wish_s is None:
            return
        if wish_s > self.now_s:
            self._wake_core_at(wish_s)
        else:
            self._wish_s = None
            self._decide(Tick())


class _Due(Coming):
    """An arrival of the workload."""

    __slots__ = ("_arrival", "_driver")

    def __init__(self, driver: VirtualDriver, arrival: Arrival) -> None:
        self._driver = driver
        self._arrival = arrival

    def happen(self) -> None:
        """See `Coming`."""
        self._driver.due(self._arrival)


class _Wake(Coming):
    """The end of a worker's step, if it does not end otherwise before."""

    __slots__ = ("_driver", "_ticket", "_worker")

    def __init__(self, driver: VirtualDriver, worker: VirtualWorker, ticket: int) -> None:
        self._driver = driver
        self._worker = worker
        self._ticket = ticket

    def happen(self) -> None:
        """See `Coming`."""
        if self._driver.living(self._worker):
            self._worker.wake(self._ticket, self._driver.now_s)


class _Report(Coming):
    """What a worker says."""

    __slots__ = ("_driver", "_report", "_worker")

    def __init__(self, driver: VirtualDriver, worker: VirtualWorker, report: StepReport) -> None:
        self._driver = driver
        self._worker = worker
        self._report = report

    def happen(self) -> None:
        """See `Coming`."""
        self._driver.hear(self._worker, self._report)


class _Order(Coming):
    """A command on its way to a worker."""

    __slots__ = ("_command", "_driver", "_worker")

    def __init__(self, driver: VirtualDriver, worker: VirtualWorker, command: WorkerCommand) -> None:
        self._driver = driver
        self._worker = worker
        self._command = command

    def happen(self) -> None:
        """See `Coming`."""
        if self._driver.living(self._worker):
            self._worker.accept(self._command, self._driver.now_s)
