"""One request on its way through the cluster.

Knows: its state, its output so far, its attempts. Does not know: workers, leases, how to place it.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from diptych.domain.ids import BlockHash, RequestId, TokenId
from diptych.domain.kv import extend_hashes
from diptych.domain.lifecycle import State, Trigger, advance
from diptych.domain.report import HandoffReport, Placement
from diptych.domain.request import FinishReason, Request, SamplingParams, Work
from diptych.orchestration.moments import Moments
from diptych.orchestration.needs import Need
from diptych.orchestration.timers import Timer, TimerKey

# Bound once: a lookup in an enumeration costs several times as much as one of a constant, and these are made
# for every request.
_QUEUED: Final = State.QUEUED

JobOrder: TypeAlias = tuple[int, float, RequestId]

NOTHING_HANDED_OVER: Final = HandoffReport()


class Job:
    """A request that has arrived and not ended."""

    __slots__ = (
        "_grown",
        "_needs",
        "attempt",
        "attempts",
        "blocked_since_s",
        "cached_tokens",
        "failures",
        "handoff",
        "moments",
        "order",
        "output",
        "placements",
        "prompt_tokens",
        "queued_s",
        "received_s",
        "request",
        "request_id",
        "state",
        "tokens",
    )

    def __init__(self, request: Request, received_s: float, queued_s: float) -> None:
        self.request = request
        self.request_id = request.request_id
        self.prompt_tokens = len(request.prompt_token_ids)
        self.received_s = received_s
        self.queued_s = queued_s
        """Since when it has waited for a worker to run it."""
        self.order: JobOrder = (request.priority, received_s, request.request_id)
        """Its place in the queue, the same after every resumption: priority, arrival, name."""
        self.moments = Moments()
        self.state = _QUEUED
        self.output: tuple[TokenId, ...] = ()
        """Output tokens that its client has, as far as we were told: complete whenever nobody computes for
        it."""
        self.tokens = self.prompt_tokens
        """Prompt and output tokens that exist: what the next prefill covers."""
        self._needs: dict[int, Need] = {}
        """By block size; found out when it is asked, until tokens come."""
        self.attempts = 0
        self.attempt: int | None = None
        """Number of the attempt that carries it now (being placed, running, or stopping before it is queued
        again)."""
        self.placements: list[Placement] = []
        self.failures: list[str] = []
        """Error code of each attempt that a worker's loss or a missed deadline has ended."""
        self.blocked_since_s: float | None = None
        """Since when it has been at the head of the queue and found no room."""
        self.cached_tokens = 0
        self.handoff = NOTHING_HANDED_OVER
        self._grown: tuple[int, tuple[BlockHash, ...]] | None = None
        """Block size and hashes of prompt and output, as far as they were asked for."""

    def needs_of(self, block_sizes: tuple[int, ...], output_reserve_tokens: int) -> dict[int, Need]:
        """What it would take of workers with blocks of these sizes."""
        needs = self._needs
        if len(needs) < len(block_sizes):
            output_tokens = min(self.tokens_left, output_reserve_tokens)
            for size in block_sizes:
                needs[size] = Need(self.tokens, output_tokens, size)
        return needs

    @property
    def queue_timer(self) -> TimerKey:
        """Its deadline while it waits."""
        return TimerKey(Timer.QUEUE, self.request_id)

    @property
    def tokens_left(self) -> int:
        """Output tokens that may still come."""
        return max(0, self.request.sampling.max_tokens - len(self.output))

    def move(self, trigger: Trigger) -> None:
        """Change state as the lifecycle table says; raises `Bug` for a move that it does not hold."""
        self.state = advance(self.state, trigger)

    def learn_output(self, token_ids: tuple[TokenId, ...]) -> None:
        """Take over the output so far; it only grows."""
        if len(token_ids) > len(self.output):
            self.output = token_ids
            self.tokens = self.prompt_tokens + len(token_ids)
            self._needs = {}

    def hashes(self, block_tokens: int) -> tuple[BlockHash, ...]:
        """Hashes of all full blocks of prompt and output. Each block is hashed once."""
        given = self.request.block_hashes
        if not self.output or len(given) < self.prompt_tokens // block_tokens:
            return given  # fewer than the prompt has: no cache is kept, so its output needs none either
        if self._grown is None or self._grown[0] != block_tokens:
            self._grown = (block_tokens, given)
        known = self._grown[1]
        if self.tokens >= (len(known) + 1) * block_tokens:
            parent = known[-1] if known else self.request.cache_root
            more = extend_hashes(parent, self._tokens_from(len(known) * block_tokens), block_tokens)
            self._grown = (block_tokens, known := (*known, *more))
        return known

    def work(self, attempt: int, block_tokens: int) -> Work:
        """The order that lets a worker go on from the tokens that exist."""
        request = self.request
        return Work(
            request_id=self.request_id,
            attempt=attempt,
            token_ids=self._tokens_from(0) if self.output else request.prompt_token_ids,
            prompt_tokens=self.prompt_tokens,
            sampling=request.sampling,
            cache_root=request.cache_root,
            block_hashes=self.hashes(block_tokens),
            priority=request.priority,
            arrival_s=self.received_s,
        )

    def _tokens_from(self, start: int) -> tuple[TokenId, ...]:
        """Tokens from position ``start`` on."""
        if start >= self.prompt_tokens:
            return self.output[start - self.prompt_tokens :]
        return (*self.request.prompt_token_ids[start:], *self.output)


def output_end(
    output: tuple[TokenId, ...], sampling: SamplingParams, tokens_left_in_context: int
) -> FinishReason | None:
    """Why this output is complete, or None if it is not.

    A worker that sampled the last token may die before it can say so; its tokens say it. No stop token is
    sampled before ``min_tokens`` exist, so a stop token in the last place always is the end.
    """
    if output and output[-1] in sampling.stop_token_ids:
        return FinishReason.STOP
    if len(output) >= sampling.max_tokens or tokens_left_in_context <= 0:
        return FinishReason.LENGTH
    return None
