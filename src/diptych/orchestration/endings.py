"""The two ways out of an attempt: back into the queue, or to the one end.

Knows: when an output is complete, when enough is enough, how a report is filled. Does not know: workers.
"""

from __future__ import annotations

from typing import Final

from diptych.domain.commands import EndRequest
from diptych.domain.errors import DiptychError, Saturated
from diptych.domain.ids import RequestId
from diptych.domain.lifecycle import State, Trigger
from diptych.domain.report import Moment, RequestReport
from diptych.domain.request import FinishReason
from diptych.orchestration.attempts import After, Attempt
from diptych.orchestration.jobs import Job, output_end
from diptych.orchestration.parts import Parts

# Bound once: a lookup in an enumeration costs several times as much as one of a constant, and these are made
# for every request.
_LAST_TOKEN: Final = Moment.LAST_TOKEN
_DONE: Final = Trigger.DONE
_NOTHING: Final = After.NOTHING


class Endings:
    """All requests that have arrived and not ended, and their ends."""

    def __init__(self, parts: Parts, max_model_tokens: int) -> None:
        self._limits = parts.limits
        self._attempts = parts.attempts
        self._queue = parts.queue
        self._timers = parts.timers
        self._outbox = parts.outbox
        self._max_model_tokens = max_model_tokens
        self.jobs: dict[RequestId, Job] = {}
        self.ended: dict[State, int] = {}
        """How many requests have ended in each state."""

    def wait(self, job: Job, now_s: float) -> None:
        """Let a request wait for a place, for a bounded time."""
        self._queue.add(job)
        deadline_s = job.queued_s + self._limits.queue_timeout_s
        self._timers.set(job.queue_timer, max(now_s, deadline_s))

    def stop_waiting(self, job: Job) -> None:
        """It has a place."""
        self._queue.remove(job)
        self._timers.cancel(job.queue_timer)

    def requeue(self, job: Job, now_s: float) -> None:
        """Nobody computes for it: finish it if its output is complete, fail it after too many failures, or
        let it wait at its old place."""
        job.attempt = None
        job.blocked_since_s = None
        reason = output_end(job.output, job.request.sampling, self._max_model_tokens - job.tokens)
        if job.output:
            job.moments.mark(Moment.FIRST_TOKEN, now_s)
        if reason is not None:
            self.finish(job, reason, now_s)
        elif len(job.failures) > self._limits.max_losses:
            self.fail(job, job.failures[-1], f"given up after {len(job.failures)} failures", now_s)
        else:
            if job.state is not State.QUEUED:
                job.move(Trigger.RESET)
                job.queued_s = now_s
            self.wait(job, now_s)

    def over(self, attempt: Attempt, now_s: float) -> None:
        """A closed attempt holds nothing any more: see `Attempts.on_over`."""
        if attempt.after is After.FINISH:
            self.finish(attempt.job, FinishReason.STOP, now_s)
        else:
            self.requeue(attempt.job, now_s)

    def try_again(self, attempt: Attempt, now_s: float) -> None:
        """Give this attempt up and let the request wait for another one, as soon as nobody computes for
        it."""
        if not attempt.placing:
            self._attempts.close(attempt, After.REQUEUE, now_s)
            return
        self._attempts.close(attempt, _NOTHING, now_s)
        self.requeue(attempt.job, now_s)

    def finish(self, job: Job, reason: FinishReason, last_token_s: float) -> None:
        """Its output is complete."""
        job.moments.mark(_LAST_TOKEN, last_token_s)
        self._end(job, _DONE, _Outcome(reason), last_token_s)

    def abort(self, job: Job, now_s: float) -> None:
        """Its client has gone."""
        self._end(job, Trigger.ABORT, _Outcome(), now_s)

    def fail(self, job: Job, code: str, message: str, now_s: float) -> None:
        """The cluster failed it."""
        self._end(job, Trigger.FAIL, _Outcome(code=code, message=message), now_s)

    def reject(self, job: Job, error: DiptychError, now_s: float) -> None:
        """It is not let in, or has waited too long without ever running."""
        retry_after_s = error.retry_after_s if isinstance(error, Saturated) else None
        outcome = _Outcome(code=error.code, message=str(error), retry_after_s=retry_after_s)
        self._end(job, Trigger.REJECT, outcome, now_s)

    def refuse(self, job: Job, error: DiptychError, now_s: float) -> None:
        """It waits in vain: rejected if it has never run, failed if its client has output already."""
        if job.output:
            self.fail(job, error.code, str(error), now_s)
        else:
            self.reject(job, error, now_s)

    def _end(self, job: Job, trigger: Trigger, outcome: _Outcome, now_s: float) -> None:
        job.move(trigger)
        if job.request_id in self._queue.jobs:
            self.stop_waiting(job)
        del self.jobs[job.request_id]
        self.ended[job.state] = self.ended.get(job.state, 0) + 1
        self._outbox.add(EndRequest(_report(job, outcome)))
        attempt = self._attempts.carrying(job)
        job.attempt = None
        if attempt is not None:
            self._attempts.close(attempt, _NOTHING, now_s)


class _Outcome:
    """What a report says beyond the history of its request."""

    __slots__ = ("code", "finish_reason", "message", "retry_after_s")

    def __init__(
        self,
        finish_reason: FinishReason | None = None,
        code: str | None = None,
        message: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self.finish_reason = finish_reason
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


def _report(job: Job, outcome: _Outcome) -> RequestReport:
    return RequestReport(
        request_id=job.request_id,
        state=job.state,
        finish_reason=outcome.finish_reason,
        error_code=outcome.code,
        error_message=outcome.message,
        retry_after_s=outcome.retry_after_s,
        prompt_tokens=job.prompt_tokens,
        cached_tokens=job.cached_tokens,
        moments=job.moments.as_dict(),
        placements=tuple(job.placements),
        handoff=job.handoff,
    )
