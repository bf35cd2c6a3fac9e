"""The real driver over virtual workers, on a loop whose time jumps.

Knows: how a `Simulation`'s parts are put under `diptych.runtime.driver` instead of the simulator's own
driver. Does
not know: what they decide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diptych.domain.cluster import ClusterSpec
from diptych.domain.commands import WorkerCommand
from diptych.domain.events import PrefillStarted, StepReport
from diptych.domain.ids import RequestId
from diptych.domain.report import RequestReport
from diptych.orchestration.core import Orchestrator
from diptych.planning.fleet import Member, build_fleet
from diptych.planning.link import VirtualLink
from diptych.planning.measure import Buckets
from diptych.planning.placement_cost import placement_cost
from diptych.planning.requests import request_maker
from diptych.planning.simulate import delays_of, virtual_limits
from diptych.planning.worker import Live, Timeline, VirtualWorker
from diptych.runtime.driver import Driver, Journal
from diptych.scheduling import Fetch, Scheduler
from diptych.workload.record import Arrival, Workload
from support.virtual_loop import STEP_ENDS, VirtualLoop


class _Port(Timeline):
    """A `WorkerPort` and the `Timeline` of one virtual worker."""

    def __init__(self, head: VirtualHead, member: Member) -> None:
        self._head = head
        self._delays = delays_of(member)
        self.info = member.info
        self.worker = VirtualWorker(
            member.info,
            Scheduler(member.config),
            member.model,
            head.lives,
            self,
            Buckets(),
            stream=True,
        )

    def send(self, command: WorkerCommand) -> None:
        loop = self._head.loop
        delay_s = self._delays.of(command)
        if delay_s > 0:
            loop.call_later(delay_s, self._accept, command)
        else:
            loop.call_soon(self._accept, command)

    def kill(self, reason: str) -> None:
        raise AssertionError(f"{self.info.worker_id} was to be killed: {reason}")

    def say(self, worker: VirtualWorker, report: StepReport) -> None:
        self._head.loop.call_soon(self._head.heard, self, report)

    def wake_at(self, worker: VirtualWorker, t_s: float, ticket: int) -> None:
        self._head.loop.call_at(t_s, self._wake, ticket, order=STEP_ENDS)

    def fetch(self, worker: VirtualWorker, fetch: Fetch) -> None:
        head = self._head
        assert head.link is not None
        live = head.lives[fetch.request_id]
        t_s = head.link.arrives_s(
            (fetch.source, self.info.worker_id),
            fetch.tokens * head.fleet.kv_bytes_per_token,
            max(0.0, live.last_token_s - live.prefill_started_s),
            head.loop.time(),
        )
        head.loop.call_at(t_s, self._fetched, fetch)

    def _fetched(self, fetch: Fetch) -> None:
        self.worker.fetched(fetch, self._head.loop.time(), whole=True)

    def _accept(self, command: WorkerCommand) -> None:
        self.worker.accept(command, self._head.loop.time())

    def _wake(self, ticket: int) -> None:
        self.worker.wake(ticket, self._head.loop.time())


class VirtualHead:
    """Runs a workload through the real driver."""

    def __init__(self, spec: ClusterSpec, workload: Workload, journal: Journal | None = None) -> None:
        self.loop = VirtualLoop()
        self.fleet = build_fleet(spec)
        self.lives: dict[RequestId, Live] = {}
        self.reports: dict[RequestId, RequestReport] = {}
        self.link = None if spec.link is None else VirtualLink(spec.link, self.fleet.layers)
        core = Orchestrator(
            virtual_limits(spec.limits),
            placement_cost(spec, self.fleet),
            max_model_tokens=self.fleet.max_model_tokens,
            slo=spec.slo,
        )
        self.driver = Driver(_Watched(core, self), self.loop, journal)
        self._make_request: Callable[[int, Arrival], Any] = request_maker(
            kv_block_tokens=spec.kv.block_tokens,
            trace_block_tokens=workload.block_tokens,
            max_model_tokens=self.fleet.max_model_tokens,
            prompt_cache=spec.kv.prompt_cache,
        )
        self._source = iter(workload)
        self._number = 0
        self._exhausted = False

    def run(self) -> dict[RequestId, RequestReport]:
        """Reports by request."""
        self.loop.call_soon(self._start)
        self.loop.run_until(lambda: self._exhausted and not self.lives)
        self.driver.close()
        return self.reports

    def _start(self) -> None:
        for member in self.fleet.members:
            port = _Port(self, member)
            self.driver.joined(port.info, port)
        self._pull()

    def _pull(self) -> None:
        arrival = next(self._source, None)
        if arrival is None:
            self._exhausted = True
        else:
            self.loop.call_at(arrival.t_s, self._due, arrival)

    def _due(self, arrival: Arrival) -> None:
        self._pull()
        request = self._make_request(self._number, arrival)
        self._number += 1
        self.lives[request.request_id] = Live(arrival.output_tokens)
        self.driver.submit(request, self.loop.time())

    def heard(self, port: _Port, report: StepReport) -> None:
        """A report arrives at the driver."""
        for event in report.events:
            if isinstance(event, PrefillStarted) and event.request_id in self.lives:
                self.lives[event.request_id].prefill_started_s = report.t_s
        self.driver.heard(port.info, report)


class _Watched:
    """The core, with its reports kept: the driver itself keeps only the latest."""

    def __init__(self, core: Orchestrator, head: VirtualHead) -> None:
        self.adopted_leases = core.adopted_leases
        self._core = core
        self._head = head

    def handle(self, event: Any, now_s: float) -> Any:
        commands = self._core.handle(event, now_s)
        for command in commands:
            report = getattr(command, "report", None)
            if isinstance(report, RequestReport):
                self._head.reports[report.request_id] = report
                self._head.lives.pop(report.request_id, None)
        return commands
