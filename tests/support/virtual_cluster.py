"""A whole cluster in one process and in virtual time: the real orchestrator, the real schedulers, toy engines
on one shared memory for each domain, and a message queue in each direction for each worker.

Who uses it decides what happens next, message by message: commands and reports wait in their queues until
they are delivered, steps are planned and committed apart, workers die, hang and come back between any two
of these. Knows: the rules of the road (order within a queue, tokens before events, everything said before
a loss). Does not know: sockets, threads, real time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from diptych.domain.cluster import LimitsSpec
from diptych.domain.commands import DropWork, EndRequest, KillWorker, Send, WakeAt, WorkerCommand
from diptych.domain.events import (
    Bounced,
    ClientGone,
    Dropped,
    Event,
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
from diptych.domain.ids import DomainId, RequestId, TokenId, WorkerId
from diptych.domain.kv import extend_hashes, hash_root
from diptych.domain.lifecycle import State
from diptych.domain.report import RequestReport
from diptych.domain.request import FinishReason, Request, SamplingParams, TokenOut
from diptych.domain.step import StepPlan
from diptych.domain.worker import Arena, Role, WorkerInfo
from diptych.orchestration.core import Orchestrator
from diptych.performance.estimate import ObservedCost
from diptych.scheduling import Fetch
from diptych.scheduling.config import SchedulerConfig
from diptych.scheduling.scheduler import Scheduler
from support.toy_engine import ToyEngine, ToyMemory, ToyModel, reference_output

BLOCK_TOKENS = 4
STOP_TOKEN = 7
ROOT = hash_root("toy", "")


@dataclass(frozen=True)
class Shape:
    """What a worker of the cluster is like."""

    role: Role
    blocks: int = 10
    token_budget: int = 8
    max_running: int = 4
    domain: str = "here"


@dataclass
class Client:
    """One request from outside: what was asked, what has come."""

    request: Request
    tokens: list[TokenId] = field(default_factory=list)
    report: RequestReport | None = None
    cancelled: bool = False
    stopped: bool = False
    void_attempt: int = 0
    """Attempts up to this one were called off: the driver passes on no token of them."""

    @property
    def streamed(self) -> Streamed:
        """What it has been given."""
        return Streamed(self.request.request_id, tuple(self.tokens))


class VirtualWorker:
    """One incarnation: scheduler, engine, queues."""

    def __init__(self, info: WorkerInfo, scheduler: Scheduler, engine: ToyEngine) -> None:
        self.info = info
        self.scheduler = scheduler
        self.engine = engine
        self.inbox: deque[WorkerCommand] = deque()
        self.outbox: deque[StepReport] = deque()
        self.plan: StepPlan | None = None
        self.joined = False
        self.hung = False
        self.fetches: deque[Fetch] = deque()
        """KV that is on its way here from another domain."""
        self.deaf = False
        """Its steps go on, but commands stay in the queue (a slow network, a starved thread)."""

    def obey(self, now_s: float) -> bool:
        """Take one command; allowed at any time, also while a step runs."""
        if self.hung or self.deaf or not self.inbox:
            return False
        self._say(StepReport(t_s=now_s, events=tuple(self.scheduler.handle(self.inbox.popleft()))))
        self.fetches.extend(self.scheduler.drain_fetches())
        return True

    def end_fetch(self, now_s: float, source: ToyMemory | None) -> bool:
        """The KV of the oldest fetch is there; without a source it will never be."""
        if self.hung or not self.fetches:
            return False
        fetch = self.fetches.popleft()
        if source is None:
            events = self.scheduler.fetch_failed(fetch.request_id, fetch.attempt)
        else:
            for there, here in zip(fetch.source_block_ids, fetch.target_block_ids, strict=True):
                assert here in self.info.arena
                self.engine.memory.copy(there, here, source)
            events = self.scheduler.fetched(fetch.request_id, fetch.attempt)
        self._say(StepReport(t_s=now_s, events=tuple(events)))
        return True

    def start_step(self, now_s: float) -> bool:
        """Plan a step."""
        if self.hung or self.plan is not None:
            return False
        self.plan = self.scheduler.plan()
        self._say(StepReport(t_s=now_s, events=tuple(self.scheduler.drain_events())))
        return self.plan is not None

    def end_step(self, now_s: float) -> bool:
        """Run and commit the planned step."""
        if self.hung or self.plan is None:
            return False
        outcome = self.scheduler.commit(self.plan, self.engine.execute(self.plan))
        self.plan = None
        stats = self.scheduler.stats()
        self._say(StepReport(t_s=now_s, events=outcome.events, tokens=outcome.tokens, stats=stats))
        return True

    def _say(self, report: StepReport) -> None:
        if report.events or report.tokens:
            self.outbox.append(report)


class VirtualCluster:
    """All of it. Methods that return a bool say whether anything happened."""

    def __init__(
        self,
        shapes: Sequence[Shape],
        limits: LimitsSpec | None = None,
        stop_probability: float = 0.0,
        max_model_tokens: int = 64,
    ) -> None:
        self.model = ToyModel(stop_probability=stop_probability)
        self.core = Orchestrator(limits or LimitsSpec(), ObservedCost(), max_model_tokens=max_model_tokens)
        self.now_s = 0.0
        self.losses = 0
        self.clients: dict[RequestId, Client] = {}
        self.workers: dict[WorkerId, VirtualWorker] = {}
        self._wish_s: float | None = None
        self._incarnations: dict[WorkerId, int] = {}
        self._killed: list[tuple[WorkerId, int]] = []
        self._places: dict[WorkerId, tuple[Shape, int]] = {}
        blocks: dict[str, int] = {}
        for number, shape in enumerate(shapes):
            start = blocks.get(shape.domain, 0)
            self._places[WorkerId(f"{shape.role.value}-{number}")] = (shape, start)
            blocks[shape.domain] = start + shape.blocks
        self.memories = {domain: ToyMemory(count, BLOCK_TOKENS) for domain, count in blocks.items()}

    @property
    def worker_ids(self) -> tuple[WorkerId, ...]:
        """Every worker that lives, lived or may live."""
        return tuple(self._places)

    # ------------------------------------------------------------ clients

    def submit(
        self, prompt: Sequence[TokenId], max_tokens: int, priority: int = 0, may_stop: bool = False
    ) -> RequestId:
        """A request arrives."""
        request_id = RequestId(f"r{len(self.clients)}")
        stop = (STOP_TOKEN,) if may_stop else ()
        request = Request(
            request_id=request_id,
            prompt_token_ids=tuple(prompt),
            cache_root=ROOT,
            block_hashes=extend_hashes(ROOT, prompt, BLOCK_TOKENS),
            sampling=SamplingParams(max_tokens=max_tokens, seed=len(self.clients), stop_token_ids=stop),
            priority=priority,
        )
        self.clients[request_id] = Client(request)
        self._tell(RequestArrived(request=request, received_s=self.now_s, tokenised_s=self.now_s))
        return request_id

    def cancel(self, request_id: RequestId) -> None:
        """The client leaves."""
        self.clients[request_id].cancelled = True
        self._tell(ClientGone(request_id))

    def stop(self, request_id: RequestId) -> None:
        """The front end sees a stop string in what has come so far."""
        self.clients[request_id].stopped = True
        self._tell(StopMatched(request_id))

    def live_requests(self) -> list[RequestId]:
        """Requests without a report."""
        return [name for name, client in self.clients.items() if client.report is None]

    # ------------------------------------------------------------ workers

    def spawn(self, worker_id: WorkerId) -> bool:
        """Start a process; it has not joined yet."""
        if worker_id in self.workers:
            return False
        shape, start = self._places[worker_id]
        arena = Arena(start, shape.blocks)
        memory = self.memories[shape.domain]
        block_bytes = memory.layout.block_bytes
        config = SchedulerConfig(
            arena, BLOCK_TOKENS, shape.token_budget, shape.max_running, block_bytes=block_bytes
        )
        self._incarnations[worker_id] = self._incarnations.get(worker_id, 0) + 1
        info = WorkerInfo(
            worker_id=worker_id,
            incarnation=self._incarnations[worker_id],
            pool=shape.role.value,
            role=shape.role,
            domain_id=DomainId(shape.domain),
            arena=arena,
            block_tokens=BLOCK_TOKENS,
            block_bytes=block_bytes,
            token_budget=shape.token_budget,
            max_running=shape.max_running,
        )
        scheduler = Scheduler(config, self.core.adopted_leases(worker_id))
        engine = ToyEngine(memory, self.model, arena)
        self.workers[worker_id] = VirtualWorker(info, scheduler, engine)
        return True

    def join(self, worker_id: WorkerId) -> bool:
        """A started process announces itself."""
        worker = self.workers.get(worker_id)
        if worker is None or worker.joined:
            return False
        worker.joined = True
        self._tell(WorkerJoined(worker.info))
        return True

    def start_all(self) -> None:
        """Every worker lives and has joined."""
        for worker_id in self.worker_ids:
            self.spawn(worker_id)
            self.join(worker_id)

    def kill(self, worker_id: WorkerId, unsent: int = 0) -> bool:
        """SIGKILL: its last ``unsent`` reports never leave it, the others are handled, then it is lost."""
        worker = self.workers.get(worker_id)
        if worker is None:
            return False
        worker.hung = True
        for _ in range(min(unsent, len(worker.outbox))):
            worker.outbox.pop()
        while worker.outbox:
            self._deliver(worker)
        del self.workers[worker_id]
        if worker.joined:
            self.losses += 1
            live = tuple(self.clients[name].streamed for name in self.live_requests())
            self._tell(WorkerLostEvent(worker_id, worker.info.incarnation, "killed", live))
        return True

    def hang(self, worker_id: WorkerId) -> bool:
        """It does nothing any more."""
        worker = self.workers.get(worker_id)
        if worker is None or not worker.joined:
            return False
        worker.hung = True
        return True

    def deafen(self, worker_id: WorkerId, deaf: bool) -> None:
        """Commands reach it no longer, or again."""
        if worker_id in self.workers:
            self.workers[worker_id].deaf = deaf

    def obey(self, worker_id: WorkerId) -> bool:
        """One command reaches its worker."""
        worker = self.workers.get(worker_id)
        return worker is not None and worker.obey(self.now_s)

    def start_step(self, worker_id: WorkerId) -> bool:
        """A worker begins a step."""
        worker = self.workers.get(worker_id)
        return worker is not None and worker.start_step(self.now_s)

    def end_step(self, worker_id: WorkerId) -> bool:
        """A worker ends its step."""
        worker = self.workers.get(worker_id)
        return worker is not None and worker.end_step(self.now_s)

    def fetch(self, worker_id: WorkerId, fails: bool = False) -> bool:
        """The oldest fetch of a worker ends: well only if its source lives."""
        worker = self.workers.get(worker_id)
        if worker is None or not worker.fetches:
            return False
        source = self.workers.get(worker.fetches[0].source)
        lives = source is not None and source.joined and not source.hung and not fails
        return worker.end_fetch(self.now_s, source.engine.memory if source is not None and lives else None)

    def deliver(self, worker_id: WorkerId) -> bool:
        """One report reaches the head."""
        worker = self.workers.get(worker_id)
        if worker is None or not worker.outbox:
            return False
        self._deliver(worker)
        return True

    def beat(self, worker_id: WorkerId) -> bool:
        """A heartbeat reaches the head."""
        worker = self.workers.get(worker_id)
        if worker is None or not worker.joined or worker.hung:
            return False
        self._tell(Heartbeat(worker_id, worker.info.incarnation, worker.scheduler.stats()))
        return True

    # ------------------------------------------------------------ time

    def pass_time(self, dt_s: float) -> None:
        """Time goes by: the news of killed workers arrive, and wishes that come due are granted."""
        killed, self._killed = self._killed, []
        for worker_id, incarnation in killed:
            worker = self.workers.get(worker_id)
            if worker is not None and worker.info.incarnation == incarnation:
                self.kill(worker_id)
        end_s = self.now_s + dt_s
        while self._wish_s is not None and self._wish_s <= end_s:
            self.now_s = max(self.now_s, self._wish_s)
            self._wish_s = None
            self._tell(Tick())
        self.now_s = end_s

    def settle(self, rounds: int = 2000) -> None:
        """No more trouble: everyone alive works, the dead come back. Fails if that does not end
        everything."""
        for _ in range(rounds):
            happened = self._round()
            heard = not any(worker.inbox for worker in self.workers.values())
            if not happened and heard and not self.live_requests() and self.core.snapshot().idle:
                return
        raise AssertionError(f"not settled after {rounds} rounds: {self.core.snapshot()}")

    def _round(self) -> bool:
        """Everyone does everything they can once; whether anything happened."""
        happened = False
        for worker_id in self.worker_ids:
            happened |= self.spawn(worker_id)
            happened |= self.join(worker_id)
            self.deafen(worker_id, deaf=False)
            while self.obey(worker_id):
                happened = True
            while self.fetch(worker_id):
                happened = True
            happened |= self.end_step(worker_id) or self.start_step(worker_id)
            while self.deliver(worker_id):
                happened = True
            self.beat(worker_id)
        self.check()
        self.pass_time(0.01 if happened else 0.4)
        return happened

    # ------------------------------------------------------------ what must hold

    def check(self) -> None:
        """Invariants of everyone."""
        self.core.check()
        for worker in self.workers.values():
            worker.scheduler.check()

    def check_end(self) -> None:
        """After `settle`: nothing is held, and every client has what it asked for."""
        snapshot = self.core.snapshot()
        assert snapshot.idle and snapshot.queued_requests == 0, snapshot
        for view in snapshot.workers:
            assert view.promised_blocks == view.decodes == view.backlog_tokens == 0, view
        for worker in self.workers.values():
            stats = worker.scheduler.stats()
            assert not worker.scheduler.has_work()
            assert stats.held_blocks == stats.reserved_blocks == stats.leases == 0, stats
        for client in self.clients.values():
            self._check_client(client)

    def _check_client(self, client: Client) -> None:
        report, request = client.report, client.request
        assert report is not None, f"{request.request_id} never ended"
        reference = reference_output(request.prompt_token_ids, request.sampling, self.model)
        assert client.tokens == reference[: len(client.tokens)]
        times = list(report.moments.values())
        assert times == sorted(times), report.moments
        attempts = [placement.attempt for placement in report.placements]
        assert attempts == list(range(1, len(attempts) + 1))
        if report.state is not State.FINISHED:
            return
        if client.stopped and report.finish_reason is FinishReason.STOP:
            return
        assert client.tokens == reference
        stopped = reference[-1] in request.sampling.stop_token_ids
        assert report.finish_reason is (FinishReason.STOP if stopped else FinishReason.LENGTH)

    # ------------------------------------------------------------ the driver

    def _deliver(self, worker: VirtualWorker) -> None:
        report, info = worker.outbox.popleft(), worker.info
        for token in report.tokens:
            self._stream(token)
        for event in report.events:
            streamed = self._streamed_for(event)
            self._tell(WorkerSaid(info.worker_id, info.incarnation, report.t_s, event, streamed))
        if report.stats is not None:
            self._tell(Heartbeat(info.worker_id, info.incarnation, report.stats))

    def _stream(self, token: TokenOut) -> None:
        client = self.clients[token.request_id]
        if client.report is not None or token.attempt <= client.void_attempt:
            return
        assert token.index == len(client.tokens), f"{token} comes after {len(client.tokens)} tokens"
        client.tokens.append(token.token_id)

    def _streamed_for(self, event: WorkerEvent) -> Streamed | None:
        if not isinstance(event, Bounced | Dropped | PrefillDone):
            return None
        client = self.clients[event.request_id]
        return client.streamed if client.report is None else None

    def _tell(self, event: Event) -> None:
        for command in self.core.handle(event, self.now_s):
            match command:
                case Send():
                    self._send(command)
                case KillWorker():
                    self._fence(command)
                case EndRequest():
                    client = self.clients[command.report.request_id]
                    assert client.report is None, f"{command.report.request_id} ended twice"
                    client.report = command.report
                case WakeAt():
                    self._wish_s = command.t_s

    def _send(self, send: Send) -> None:
        if isinstance(send.command, DropWork):
            client = self.clients[send.command.request_id]
            client.void_attempt = max(client.void_attempt, send.command.attempt)
        worker = self.workers.get(send.worker_id)
        if worker is not None and worker.joined and worker.info.incarnation == send.incarnation:
            worker.inbox.append(send.command)

    def _fence(self, command: KillWorker) -> None:
        """The kill takes effect at once; the news of it comes when time passes."""
        worker = self.workers.get(command.worker_id)
        if worker is not None and worker.info.incarnation == command.incarnation:
            worker.hung = True
            self._killed.append((command.worker_id, command.incarnation))
