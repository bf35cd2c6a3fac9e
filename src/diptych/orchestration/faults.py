"""What goes wrong: workers that die or hang, answers that do not come.

Knows: which attempts a loss touches, which deadline means what. Does not know: how an attempt is undone.
"""

from __future__ import annotations

from typing import assert_never

from diptych.domain.commands import KillWorker
from diptych.domain.errors import DeadlineExceeded, HandoffFailed, WorkerLost
from diptych.domain.events import WorkerLostEvent
from diptych.domain.ids import RequestId, WorkerId
from diptych.domain.lifecycle import State
from diptych.orchestration.attempts import Attempt
from diptych.orchestration.endings import Endings
from diptych.orchestration.parts import Parts
from diptych.orchestration.placing import Placing
from diptych.orchestration.registry import Worker, WorkerRef
from diptych.orchestration.timers import Timer, TimerKey

NO_WORKER = TimerKey(Timer.NO_WORKER)


class Faults:
    """Reacts to losses and to deadlines."""

    def __init__(self, parts: Parts, endings: Endings, placing: Placing) -> None:
        self._limits = parts.limits
        self._registry = parts.registry
        self._index = parts.prefixes
        self._leases = parts.leases
        self._attempts = parts.attempts
        self._queue = parts.queue
        self._timers = parts.timers
        self._outbox = parts.outbox
        self._endings = endings
        self._placing = placing

    def lost(self, event: WorkerLostEvent, now_s: float) -> None:
        """A worker is dead. Those it computed for or was about to, and those whose KV was being fetched from
        it, are given up; those that merely use blocks of its arena go on, for the bytes are still there."""
        ref = WorkerRef(event.worker_id, event.incarnation)
        worker = self._registry.lose(ref, now_s)
        if worker is None:
            return
        self._index.forget(worker.worker_id)
        for streamed in event.streamed:
            job = self._endings.jobs.get(streamed.request_id)
            if job is not None:
                job.learn_output(streamed.token_ids)
        unanswered = self._leases.owner_lost(worker.worker_id)
        for attempt in self._attempts.all():
            self._bereave(attempt, ref, now_s)
        for lease_id in unanswered:
            borrower = self._attempts.borrower(lease_id)
            if borrower is not None:
                self._placing.start_if_answered(borrower, now_s)

    def due(self, key: TimerKey, now_s: float) -> None:
        """A deadline has passed."""
        match key.timer:
            case Timer.HEARTBEAT | Timer.STALL | Timer.RETRY:
                worker = self._registry.get(WorkerId(key.name))
                if worker is not None:
                    self._due_of_worker(key.timer, worker, now_s)
            case Timer.QUEUE:
                self._waited_too_long(RequestId(key.name), now_s)
            case Timer.ATTEMPT:
                attempt = self._attempts.get(RequestId(key.name), key.number)
                if attempt is not None and attempt.after is None:
                    self._attempt_too_slow(attempt, now_s)
            case Timer.NO_WORKER:
                self._fail_without_workers(now_s)
            case _:
                assert_never(key.timer)

    def watch_absence(self) -> None:
        """While nobody lives to do the work, the next request to give up sets the alarm. One that comes too
        soon, or for nothing, does no harm."""
        if len(self._queue) and NO_WORKER not in self._timers:
            self._timers.set(NO_WORKER, min(self._hopeless_at_s(job.queued_s) for job in self._queue))

    def _bereave(self, attempt: Attempt, ref: WorkerRef, now_s: float) -> None:
        touched = attempt.present.get(ref.worker_id) == ref
        about_to = attempt.placing and attempt.prefill == ref
        if not touched and not about_to and attempt.fetching_from != ref:
            return
        if attempt.after is None:
            attempt.job.failures.append(WorkerLost.code)
        self._attempts.leave(attempt, ref.worker_id, now_s)
        if attempt.after is None:
            self._endings.try_again(attempt, now_s)

    def _due_of_worker(self, timer: Timer, worker: Worker, now_s: float) -> None:
        if timer is Timer.RETRY:
            self._registry.forgive(worker)
        elif timer is Timer.HEARTBEAT and self._registry.silent_too_long(worker):
            self._kill(worker, f"silent for {self._limits.heartbeat_timeout_s} s", now_s)
        elif timer is Timer.STALL and self._registry.still_too_long(worker):
            self._kill(worker, f"busy, but no step for {self._limits.stall_timeout_s} s", now_s)

    def _kill(self, worker: Worker, reason: str, now_s: float) -> None:
        if not worker.doomed:
            self._registry.condemn(worker, now_s)
            self._outbox.add(KillWorker(worker.worker_id, worker.info.incarnation, reason))

    def _waited_too_long(self, request_id: RequestId, now_s: float) -> None:
        job = self._endings.jobs.get(request_id)
        if job is None or request_id not in self._queue:
            return
        waited_s = now_s - job.queued_s
        self._endings.refuse(job, DeadlineExceeded(f"no place found in {waited_s:.0f} s"), now_s)

    def _attempt_too_slow(self, attempt: Attempt, now_s: float) -> None:
        """By state: unanswered reservation or leases; not started although its worker stands still; no
        decode."""
        if attempt.job.state is State.PREFILLING and self._works(attempt.prefill):
            self._timers.set(attempt.timer, now_s + self._limits.placing_timeout_s)
            return
        if attempt.job.state is State.PREFILLING:
            attempt.job.failures.append(DeadlineExceeded.code)
        if attempt.job.state is State.HANDING_OFF:
            attempt.job.failures.append(HandoffFailed.code)
        self._endings.try_again(attempt, now_s)
        self._placing.cool(attempt.decode, 0, now_s)

    def _works(self, ref: WorkerRef) -> bool:
        worker: Worker | None = self._registry.current(ref)
        return worker is None or worker.doomed or worker.stats.busy

    def _hopeless_at_s(self, queued_s: float) -> float:
        return max(self._registry.none_since_s or 0.0, queued_s) + self._limits.no_worker_timeout_s

    def _fail_without_workers(self, now_s: float) -> None:
        if self._registry.none_since_s is None:
            return
        for job in self._queue:
            if self._hopeless_at_s(job.queued_s) <= now_s:
                message = f"no worker lives since {self._limits.no_worker_timeout_s} s"
                self._endings.fail(job, WorkerLost.code, message, now_s)
