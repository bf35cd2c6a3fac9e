"""Who is let in.

Knows: the bounds of the queue, what can never fit, how long to stay away. Does not know: placement.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum

from diptych.domain.errors import ContextTooLong, Saturated
from diptych.domain.worker import Role, WorkerInfo
from diptych.orchestration.jobs import Job
from diptych.orchestration.parts import Parts

RETRY_AFTER_MIN_S = 1.0
RETRY_AFTER_MAX_S = 30.0
"""Bounds on what a client is told: sooner only adds load, later is a guess."""


class Admission:
    """Judges; ends nothing itself."""

    def __init__(self, parts: Parts, max_model_tokens: int) -> None:
        self._limits = parts.limits
        self._registry = parts.registry
        self._ledger = parts.ledger
        self._queue = parts.queue
        self._cost = parts.cost
        self._max_model_tokens = max_model_tokens
        self._most_tokens: int | None = None
        """That any worker that ever joined could run; None: nobody knows."""
        self._most_of: tuple[WorkerInfo, ...] = ()

    def never_fits(self, job: Job) -> ContextTooLong | None:
        """Whether no worker that ever joined could run it (before the first has joined, nobody knows).

        Asked at arrival and at each resumption: an output may outgrow what one worker can compute anew.
        """
        if job.tokens + 1 > self._max_model_tokens:
            return ContextTooLong(
                f"{job.tokens} tokens leave no room for output: the model takes {self._max_model_tokens}"
            )
        known = self._registry.known()
        if self._most_of is not known:
            self._most_of = known
            self._most_tokens = max([_most_tokens(info, known) for info in _able(known)], default=None)
        if self._most_tokens is None or job.tokens <= self._most_tokens:
            return None
        most = max(info.arena.blocks * info.block_tokens for info in _able(known))
        return ContextTooLong(f"{job.tokens} tokens fit on no worker: the largest KV memory holds {most}")

    def overflows(self) -> Saturated | None:
        """Whether more wait than may, now that all who could be placed have been."""
        limits = self._limits
        if len(self._queue) > limits.queue_requests:
            return Saturated(f"{limits.queue_requests} requests wait already", self.retry_after_s())
        if self._queue.prompt_tokens > limits.queue_tokens:
            return Saturated(f"{limits.queue_tokens} prompt tokens wait already", self.retry_after_s())
        return None

    def retry_after_s(self) -> float:
        """Seconds until the prompt tokens that wait would be done, by the measured rates of the workers."""
        workers = [it for it in self._registry.usable() if it.info.role is not Role.DECODE]
        workers = workers or list(self._registry.usable())
        tokens = self._queue.prompt_tokens
        tokens += sum(self._ledger.account(it.worker_id).prefill_tokens for it in workers)
        alone_s = [self._cost.prefill_s(it.worker_id, tokens, 0) for it in workers]
        if not alone_s:
            return RETRY_AFTER_MAX_S
        together_s = 0.0 if min(alone_s) <= 0 else 1 / fsum([1 / seconds for seconds in alone_s])
        return min(RETRY_AFTER_MAX_S, max(RETRY_AFTER_MIN_S, together_s))


def _able(known: Sequence[WorkerInfo]) -> list[WorkerInfo]:
    """Who may compute prompts."""
    return [info for info in known if info.role is not Role.DECODE] or list(known)


def _most_tokens(info: WorkerInfo, known: Sequence[WorkerInfo]) -> int:
    """Tokens that can be computed on this worker and go on there or, behind a prefill, with a partner. Who
    decodes from blocks of its own needs room for the next one too."""
    here = info.arena.blocks * info.block_tokens
    if info.role is not Role.PREFILL:
        return here - 1
    partners = [it for it in known if it.role is Role.DECODE]
    if not partners or any(it.domain_id == info.domain_id for it in partners):
        return here
    return min(here, max(it.arena.blocks * it.block_tokens for it in partners) - 1)
