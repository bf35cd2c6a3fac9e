"""A scheduler with a toy engine behind it, driven step by step. Knows no orchestrator: tests give orders."""

from __future__ import annotations

from collections.abc import Mapping

from diptych.domain.commands import WorkerCommand
from diptych.domain.events import WorkerEvent
from diptych.domain.ids import BlockId, LeaseId, RequestId, TokenId
from diptych.domain.request import PromptLogprobs, TokenOut
from diptych.domain.step import StepPlan
from diptych.domain.worker import Arena
from diptych.scheduling import Scheduler, SchedulerConfig
from support.toy_engine import ToyEngine, ToyMemory, ToyModel


class OneWorker:
    """``events`` collects all that the scheduler said, ``tokens`` all that it streamed."""

    def __init__(
        self,
        *,
        memory: ToyMemory | None = None,
        arena: Arena | None = None,
        token_budget: int = 64,
        max_running: int = 8,
        prompt_cache: bool = True,
        model: ToyModel | None = None,
        adopted: Mapping[LeaseId, tuple[BlockId, ...]] | None = None,
    ) -> None:
        arena = arena or Arena(0, 16)
        memory = memory or ToyMemory(64, 4)
        layout = memory.layout
        config = SchedulerConfig(
            arena, layout.block_tokens, token_budget, max_running, layout.block_bytes, prompt_cache
        )
        self.scheduler = Scheduler(config, adopted)
        self.engine = ToyEngine(memory, model or ToyModel(), arena)
        self.events: list[WorkerEvent] = []
        self.tokens: list[TokenOut] = []
        self.prompt_logprobs: list[PromptLogprobs] = []

    def tell(self, command: WorkerCommand) -> list[WorkerEvent]:
        """Give an order; returns (and collects) what was pending, the answer last."""
        events = self.scheduler.handle(command)
        self.events += events
        self.scheduler.check()
        return events

    def plan(self) -> StepPlan | None:
        """Start a step."""
        plan = self.scheduler.plan()
        self.events += self.scheduler.drain_events()
        self.scheduler.check()
        return plan

    def commit(self, plan: StepPlan) -> None:
        """Execute and end a step."""
        outcome = self.scheduler.commit(plan, self.engine.execute(plan))
        self.events += outcome.events
        self.tokens += outcome.tokens
        self.prompt_logprobs += outcome.prompt_logprobs
        self.scheduler.check()

    def step(self) -> StepPlan:
        """One whole step; there must be one."""
        plan = self.plan()
        assert plan is not None, "nothing to run"
        self.commit(plan)
        return plan

    def run(self) -> list[StepPlan]:
        """Steps until nothing can run."""
        plans: list[StepPlan] = []
        while plan := self.plan():
            self.commit(plan)
            plans.append(plan)
        return plans

    def output(self, request_id: str) -> list[TokenId]:
        """Tokens streamed for one request."""
        return [token.token_id for token in self.tokens if token.request_id == RequestId(request_id)]

    def said(self, kind: type[WorkerEvent]) -> list[WorkerEvent]:
        """Collected events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]
