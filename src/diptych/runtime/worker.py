"""One worker while it runs: commands come in on one thread, steps run on another, heartbeats on a third.

    I/O thread    command → lock{ scheduler.handle } → answers, at once, also while a step runs
    step thread   lock{ plan } → engine.execute → lock{ commit } → report
    heartbeat     lock{ stats } every interval

Everything is said under the lock, so the head hears it in the order in which it happened.
Knows: the order of plan, execute and commit; load figures that need a clock. Does not know: sockets,
processes, signals, roles.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from diptych.adapters.protocol import EngineAdapter
from diptych.domain.clock import Clock
from diptych.domain.commands import WorkerCommand
from diptych.domain.errors import Bug, ClusterError
from diptych.domain.events import Heartbeat, StepReport, WorkerEvent
from diptych.domain.ids import RequestId, WorkerId
from diptych.domain.step import StepPlan, StepResult
from diptych.domain.worker import WorkerStats
from diptych.scheduling import Scheduler

Say = Callable[[StepReport | Heartbeat], None]
"""Hands one message to the head; called by one thread at a time."""


class StepFailed(ClusterError):
    """The engine raised: nothing that it holds can be trusted any more, so the process must end."""

    def __init__(self, request_ids: tuple[RequestId, ...]) -> None:
        super().__init__(f"a step of {len(request_ids)} requests failed")
        self.request_ids = request_ids


class Worker:
    """Ties scheduler, engine and head together."""

    def __init__(
        self,
        worker_id: WorkerId,
        incarnation: int,
        scheduler: Scheduler,
        engine: EngineAdapter,
        clock: Clock,
        say: Say,
    ) -> None:
        self._worker_id = worker_id
        self._incarnation = incarnation
        self._scheduler = scheduler
        self._engine = engine
        self._clock = clock
        self._say = say
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._prefill_s = 0.0
        self._decode_s = 0.0
        self._decode_steps = 0

    def accept(self, command: WorkerCommand) -> None:
        """Apply a command now and answer it. Called by the I/O thread."""
        with self._changed:
            self._tell(self._scheduler.handle(command))
            if self._scheduler.drain_fetches():
                raise Bug(f"{command} fetches KV, but all workers of this machine share one memory domain")
            self._changed.notify()

    def stop(self) -> None:
        """Let `run` return after the step under way. Any thread but the step thread."""
        with self._changed:
            self._stopping.set()
            self._changed.notify()

    def run(self) -> None:
        """Run steps until `stop`; sleeps while there is nothing to do. Called by the step thread.

        Raises:
            StepFailed: the engine raised.
            OSError: the head has gone.
        """
        while (plan := self._next_plan()) is not None:
            self._run_step(plan)

    def beat(self, interval_s: float) -> None:
        """Send a heartbeat every ``interval_s`` until `stop`. Called by the heartbeat thread."""
        while not self._stopping.wait(interval_s):
            with self._changed:
                self._say(Heartbeat(self._worker_id, self._incarnation, self._stats()))

    def _next_plan(self) -> StepPlan | None:
        with self._changed:
            while not self._stopping.is_set():
                plan = self._scheduler.plan()
                self._tell(self._scheduler.drain_events())
                if plan is not None:
                    return plan
                self._changed.wait()
            return None

    def _run_step(self, plan: StepPlan) -> None:
        started_s = self._clock.now_s()
        result = self._execute(plan)
        took_s = self._clock.now_s() - started_s
        with self._changed:
            outcome = self._scheduler.commit(plan, result)
            self._count(took_s)
            self._say(
                StepReport(
                    t_s=self._clock.now_s(),
                    events=outcome.events,
                    tokens=outcome.tokens,
                    prompt_logprobs=outcome.prompt_logprobs,
                    stats=self._stats(),
                )
            )

    def _execute(self, plan: StepPlan) -> StepResult:
        try:
            return self._engine.execute(plan)
        except Exception as error:  # an engine may raise anything; who was in the step is what counts
            raise StepFailed(tuple(piece.request_id for piece in plan.slices)) from error

    def _count(self, took_s: float) -> None:
        """Add the seconds of the step just committed to its kind, as the scheduler tells the kinds apart."""
        decode_steps = self._scheduler.stats().decode_steps_total
        if decode_steps > self._decode_steps:
            self._decode_s += took_s
        else:
            self._prefill_s += took_s
        self._decode_steps = decode_steps

    def _tell(self, events: Sequence[WorkerEvent]) -> None:
        if events:
            self._say(StepReport(t_s=self._clock.now_s(), events=tuple(events)))

    def _stats(self) -> WorkerStats:
        """The scheduler's figures, with those that only a clock can give."""
        return self._scheduler.stats(self._prefill_s, self._decode_s)
