"""The orchestrator alone, with someone to talk to it: every answer of a worker is said by the test.

Knows: short ways to say events, what was ordered and reported. Does not know: how real workers behave.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from diptych.domain.cluster import LimitsSpec, SloSpec
from diptych.domain.commands import Command, EndRequest, KillWorker, Send, WakeAt, WorkerCommand
from diptych.domain.events import (
    ClientGone,
    Dropped,
    Event,
    Heartbeat,
    RequestArrived,
    Streamed,
    Tick,
    WorkerEvent,
    WorkerJoined,
    WorkerLostEvent,
    WorkerSaid,
)
from diptych.domain.ids import DomainId, RequestId, TokenId, WorkerId
from diptych.domain.kv import extend_hashes, hash_root
from diptych.domain.report import RequestReport
from diptych.domain.request import Request, SamplingParams
from diptych.domain.worker import Arena, Role, WorkerInfo, WorkerStats
from diptych.orchestration.core import Orchestrator
from diptych.performance.estimate import CostModel

ROOT = hash_root("head", "")
BLOCK_TOKENS = 4
BLOCK_BYTES = 1000

OrderT = TypeVar("OrderT")


class FixedCost(CostModel):
    """1 ms for a prompt token, 10 ms for a decode step, 2 ms for a handoff, unless a worker is slow."""

    def __init__(self, slowness: dict[str, float] | None = None) -> None:
        self._slowness = slowness or {}
        self.handoffs: list[tuple[WorkerId, int, float | None, float]] = []

    def _slow(self, worker_id: WorkerId) -> float:
        return self._slowness.get(worker_id, 1.0)

    def prefill_s(self, worker_id: WorkerId, new_tokens: int, cached_tokens: int) -> float:
        """See `CostModel`."""
        return 0.001 * new_tokens * self._slow(worker_id)

    def decode_step_s(self, worker_id: WorkerId, batch: int, context_tokens: int) -> float:
        """See `CostModel`."""
        return (0.009 + 0.001 * batch) * self._slow(worker_id)

    def handoff_s(self, target: WorkerId, tokens: int, prefill_s: float | None) -> float:
        """See `CostModel`."""
        return 0.002

    def observe(self, worker_id: WorkerId, stats: WorkerStats) -> None:
        """See `CostModel`."""

    def observe_handoff(
        self, target: WorkerId, tokens: int, prefill_s: float | None, handoff_s: float
    ) -> None:
        """See `CostModel`."""
        self.handoffs.append((target, tokens, prefill_s, handoff_s))


def make_info(
    name: str,
    role: Role,
    *,
    start: int = 0,
    blocks: int = 100,
    incarnation: int = 1,
    max_running: int = 8,
    domain: str = "here",
) -> WorkerInfo:
    """A worker as it announces itself."""
    return WorkerInfo(
        worker_id=WorkerId(name),
        incarnation=incarnation,
        pool=role.value,
        role=role,
        domain_id=DomainId(domain),
        arena=Arena(start, blocks),
        block_tokens=BLOCK_TOKENS,
        block_bytes=BLOCK_BYTES,
        token_budget=512,
        max_running=max_running,
    )


def make_request(
    name: str,
    prompt: Sequence[TokenId] | int = 10,
    *,
    max_tokens: int = 8,
    priority: int = 0,
    stop: Sequence[TokenId] = (),
    prompt_logprobs: int | None = None,
) -> Request:
    """A request; a number asks for that many prompt tokens."""
    tokens = tuple(range(prompt)) if isinstance(prompt, int) else tuple(prompt)
    return Request(
        request_id=RequestId(name),
        prompt_token_ids=tokens,
        cache_root=ROOT,
        block_hashes=extend_hashes(ROOT, tokens, BLOCK_TOKENS),
        sampling=SamplingParams(
            max_tokens=max_tokens, seed=0, stop_token_ids=tuple(stop), prompt_logprobs=prompt_logprobs
        ),
        priority=priority,
    )


class Head:
    """An orchestrator, its time, and everything that it ordered."""

    def __init__(
        self,
        limits: LimitsSpec | None = None,
        *,
        cost: FixedCost | None = None,
        max_model_tokens: int = 1000,
        slo: SloSpec | None = None,
    ) -> None:
        self.cost = cost or FixedCost()
        self.core = Orchestrator(
            limits or LimitsSpec(), self.cost, max_model_tokens=max_model_tokens, slo=slo or SloSpec()
        )
        self.now_s = 100.0
        self.wish_s: float | None = None
        self.sent: list[Send] = []
        self.kills: list[KillWorker] = []
        self.reports: dict[str, RequestReport] = {}
        self._incarnations: dict[str, int] = {}

    # ------------------------------------------------------------ events

    def tell(self, event: Event) -> list[Command]:
        """One event now; invariants are checked afterwards."""
        commands = self.core.handle(event, self.now_s)
        self.core.check()
        for command in commands:
            match command:
                case Send():
                    self.sent.append(command)
                case KillWorker():
                    self.kills.append(command)
                case EndRequest(report):
                    assert report.request_id not in self.reports, f"{report.request_id} ended twice"
                    self.reports[report.request_id] = report
                case WakeAt(t_s):
                    self.wish_s = t_s
        return commands

    def join(self, info: WorkerInfo) -> None:
        """A worker joins, and says that it is empty."""
        self._incarnations[info.worker_id] = info.incarnation
        self.tell(WorkerJoined(info))
        self.beat(info.worker_id, WorkerStats(free_blocks=info.arena.blocks))

    def beat(self, worker: str, stats: WorkerStats) -> None:
        """A heartbeat."""
        self.tell(Heartbeat(WorkerId(worker), self._incarnations[worker], stats))

    def arrive(self, request: Request) -> None:
        """A request arrives now."""
        self.tell(RequestArrived(request=request, received_s=self.now_s, tokenised_s=self.now_s))

    def say(self, worker: str, event: WorkerEvent, output: Sequence[TokenId] | None = None) -> None:
        """A worker says something; ``output``: what the client of its request has by then."""
        request_id: RequestId | None = getattr(event, "request_id", None)
        streamed = None if output is None or request_id is None else Streamed(request_id, tuple(output))
        self.tell(WorkerSaid(WorkerId(worker), self._incarnations[worker], self.now_s, event, streamed))

    def tell_gone(self, name: str) -> None:
        """A client leaves."""
        self.tell(ClientGone(RequestId(name)))

    def drop(self, worker: str, name: str, attempt: int = 1) -> None:
        """A worker confirms that it has stopped."""
        self.say(worker, Dropped(RequestId(name), attempt))

    def lose(self, worker: str, **outputs: Sequence[TokenId]) -> None:
        """A worker is dead; ``outputs``: what the clients of the named requests have by then."""
        streamed = tuple(Streamed(RequestId(name), tuple(output)) for name, output in outputs.items())
        incarnation = self._incarnations[worker]
        self.tell(WorkerLostEvent(WorkerId(worker), incarnation, "killed", streamed))

    def wait(self, dt_s: float) -> None:
        """Time goes by; wishes are granted on the way."""
        end_s = self.now_s + dt_s
        while self.wish_s is not None and self.wish_s <= end_s:
            self.now_s, self.wish_s = max(self.now_s, self.wish_s), None
            self.tell(Tick())
        self.now_s = end_s

    # ------------------------------------------------------------ orders

    def take(self, worker: str) -> list[WorkerCommand]:
        """What was ordered of a worker since the last look."""
        orders = [send.command for send in self.sent if send.worker_id == worker]
        self.sent = [send for send in self.sent if send.worker_id != worker]
        return orders

    def take_one(self, worker: str, kind: type[OrderT]) -> OrderT:
        """The one order since the last look, of this kind."""
        (order,) = self.take(worker)
        assert isinstance(order, kind), order
        return order
