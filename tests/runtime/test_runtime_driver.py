"""The driver does what the core says, in the order that makes it exact. The core here is a script."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from diptych.domain.commands import (
    Command,
    DropWork,
    EndRequest,
    KillWorker,
    Send,
    StartPrefill,
    WakeAt,
    WorkerCommand,
)
from diptych.domain.events import (
    Bounced,
    ClientGone,
    Event,
    Finished,
    HeadResumed,
    Heartbeat,
    RequestArrived,
    StepReport,
    StopMatched,
    Streamed,
    Tick,
    WorkerJoined,
    WorkerLostEvent,
    WorkerSaid,
)
from diptych.domain.ids import BlockHash, BlockId, DomainId, LeaseId, RequestId, WorkerId
from diptych.domain.lifecycle import State
from diptych.domain.report import RequestReport
from diptych.domain.request import FinishReason, Request, SamplingParams, TokenOut, Work
from diptych.domain.worker import Arena, Role, WorkerInfo, WorkerStats
from diptych.runtime.clock import MonotonicClock
from diptych.runtime.driver import PAUSE_S, Driver

RID, WID = RequestId("r"), WorkerId("w")
ROOT = BlockHash(bytes(16))
SAMPLING = SamplingParams(max_tokens=4, seed=0)
REQUEST = Request(
    request_id=RID, prompt_token_ids=(1, 2), cache_root=ROOT, block_hashes=(), sampling=SAMPLING
)
INFO = WorkerInfo(
    worker_id=WID,
    incarnation=1,
    pool="m",
    role=Role.MIXED,
    domain_id=DomainId("host"),
    arena=Arena(0, 8),
    block_tokens=4,
    block_bytes=64,
    token_budget=16,
    max_running=4,
)
WORK = Work(
    request_id=RID,
    attempt=1,
    token_ids=(1, 2),
    prompt_tokens=2,
    sampling=SAMPLING,
    cache_root=ROOT,
    block_hashes=(),
)
FINISHED = RequestReport(request_id=RID, state=State.FINISHED)
PREFILL = StartPrefill(WORK)


class ScriptedCore:
    """Answers events by type; remembers them."""

    def __init__(self, **answers: list[Command]) -> None:
        self.answers = answers
        self.events: list[Event] = []
        self.look: Callable[[Event], None] = lambda event: None

    def handle(self, event: Event, now_s: float) -> list[Command]:
        self.events.append(event)
        self.look(event)
        name = event.event if isinstance(event, WorkerSaid) else event
        return self.answers.get(type(name).__name__, [])

    def adopted_leases(self, worker_id: WorkerId) -> dict[LeaseId, tuple[BlockId, ...]]:
        return {LeaseId("l"): (1, 2)}

    def heard(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


class Port:
    """Remembers orders."""

    def __init__(self) -> None:
        self.sent: list[WorkerCommand] = []
        self.killed: list[str] = []

    def send(self, command: WorkerCommand) -> None:
        self.sent.append(command)

    def kill(self, reason: str) -> None:
        self.killed.append(reason)


def _token(index: int) -> TokenOut:
    return TokenOut(request_id=RID, attempt=1, index=index, token_id=10 + index)


def _driver(core: ScriptedCore) -> tuple[Driver, Port]:
    driver, port = Driver(core, MonotonicClock()), Port()
    driver.joined(INFO, port)
    return driver, port


async def test_tokens_of_a_report_reach_the_client_before_its_events_and_its_end() -> None:
    core = ScriptedCore(RequestArrived=[Send(WID, 1, PREFILL)], Finished=[EndRequest(FINISHED)])
    driver, port = _driver(core)
    stream = driver.submit(REQUEST, received_s=0.0)
    assert port.sent == [PREFILL]
    finished = Finished(RID, 1, FinishReason.LENGTH)
    driver.heard(INFO, StepReport(t_s=0.0, events=(finished,), tokens=(_token(0), _token(1))))
    assert await stream.next_batch() == [_token(0), _token(1), FINISHED]
    assert len(driver.requests) == 0


async def test_what_the_client_has_had_goes_with_the_loss_and_with_a_bounce() -> None:
    core = ScriptedCore(RequestArrived=[Send(WID, 1, PREFILL)])
    driver, _ = _driver(core)
    driver.submit(REQUEST, received_s=0.0)
    driver.heard(INFO, StepReport(t_s=0.0, events=(Bounced(RID, 1, "no room"),), tokens=(_token(0),)))
    driver.lost(WID, 1, "killed")
    (said,) = core.heard(WorkerSaid)
    (lost,) = core.heard(WorkerLostEvent)
    assert isinstance(said, WorkerSaid) and said.streamed == Streamed(RID, (10,))
    assert isinstance(lost, WorkerLostEvent) and lost.streamed == (Streamed(RID, (10,)),)


async def test_orders_to_an_incarnation_that_is_gone_are_dropped() -> None:
    core = ScriptedCore(RequestArrived=[Send(WID, 2, PREFILL), KillWorker(WID, 2, "hangs")])
    driver, port = _driver(core)
    driver.submit(REQUEST, received_s=0.0)
    assert port.sent == [] and port.killed == []


async def test_a_hanging_worker_is_killed_by_its_port() -> None:
    core = ScriptedCore(RequestArrived=[KillWorker(WID, 1, "hangs")])
    driver, port = _driver(core)
    driver.submit(REQUEST, received_s=0.0)
    assert port.killed == ["hangs"]


async def test_a_wish_to_be_woken_replaces_the_earlier_one() -> None:
    clock = MonotonicClock()
    core = ScriptedCore()
    ticked = asyncio.Event()
    core.look = lambda event: ticked.set() if isinstance(event, Tick) else None
    driver = Driver(core, clock)
    core.answers["Heartbeat"] = [WakeAt(clock.now_s() + 3600.0), WakeAt(clock.now_s() + 0.01)]
    driver.beat(Heartbeat(WID, 1, WorkerStats()))
    await asyncio.wait_for(ticked.wait(), 10.0)
    assert core.heard(Tick) == [Tick()]
    driver.close()


async def test_stats_in_a_report_are_a_sign_of_life() -> None:
    core = ScriptedCore()
    driver, _ = _driver(core)
    driver.heard(INFO, StepReport(t_s=0.0, stats=WorkerStats(steps=7)))
    assert core.heard(Heartbeat) == [Heartbeat(WID, 1, WorkerStats(steps=7))]
    assert driver.stats(WID).steps == 7


class SteppedClock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.t_s = 100.0

    def now_s(self) -> float:
        return self.t_s


async def test_the_core_hears_of_the_heads_own_pause_before_anything_else() -> None:
    core, clock = ScriptedCore(), SteppedClock()
    driver = Driver(core, clock)
    driver.joined(INFO, Port())
    clock.t_s += PAUSE_S / 2
    driver.beat(Heartbeat(WID, 1, WorkerStats()))
    clock.t_s += 30.0
    driver.beat(Heartbeat(WID, 1, WorkerStats(steps=1)))
    assert [type(event) for event in core.events] == [WorkerJoined, Heartbeat, HeadResumed, Heartbeat]
    assert core.heard(HeadResumed) == [HeadResumed(30.0)]
    driver.close()


async def test_clients_who_are_done_or_unknown_disturb_nobody() -> None:
    core = ScriptedCore(ClientGone=[EndRequest(FINISHED)])
    driver, _ = _driver(core)
    driver.submit(REQUEST, received_s=0.0)
    driver.abort(RID)
    driver.abort(RID)
    driver.stop(RID)
    assert core.heard(ClientGone) == [ClientGone(RID)] and core.heard(StopMatched) == []


async def test_ready_means_proven_and_a_worker_there() -> None:
    driver, port = _driver(ScriptedCore())
    assert not driver.ready()
    driver.mark_proven()
    assert driver.ready()
    driver.lost(WID, 1, "killed")
    assert not driver.ready()
    driver.joined(INFO, port)
    assert not driver.ready()


async def test_a_core_that_breaks_ends_every_request_instead_of_hanging() -> None:
    def explode(event: Event) -> None:
        if isinstance(event, Heartbeat):
            raise KeyError("broken")

    core = ScriptedCore()
    core.look = explode
    driver, _ = _driver(core)
    stream = driver.submit(REQUEST, received_s=0.0)
    driver.beat(Heartbeat(WID, 1, WorkerStats()))
    (report,) = await stream.next_batch()
    assert isinstance(report, RequestReport) and report.state is State.FAILED
    assert driver.fatal is not None and not driver.ready()


async def test_after_the_close_a_request_is_answered_at_once() -> None:
    driver, _ = _driver(ScriptedCore())
    early = driver.submit(REQUEST, received_s=0.0)
    driver.close()
    late = driver.submit(REQUEST, received_s=0.0)
    for stream in (early, late):
        (report,) = await stream.next_batch()
        assert isinstance(report, RequestReport) and report.state is State.FAILED


async def test_the_journal_holds_what_a_replay_needs() -> None:
    entries: list[tuple[float, Event, list[Command]]] = []
    core = ScriptedCore(RequestArrived=[Send(WID, 1, DropWork(RID, 1))])
    driver = Driver(core, MonotonicClock(), lambda *entry: entries.append(entry))
    driver.joined(INFO, Port())
    driver.submit(REQUEST, received_s=0.0)
    assert [type(event) for _, event, _ in entries] == [WorkerJoined, RequestArrived]
    assert entries[1][2] == [Send(WID, 1, DropWork(RID, 1))]
