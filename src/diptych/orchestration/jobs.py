"""One request on its way through the cluster.

Knows: its state, its output so far, its attempts. Does not know: workers, leases, how to place it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from diptych.domain.ids import BlockHash, RequestId, TokenId
from diptych.domain.kv import extend_hashes
from diptych.domain.lifecycle import State, Trigger, advance
from diptych.domain.report import HandoffReport, Placement
from diptych.domain.request import FinishReason, Request, SamplingParams, Work
from diptych.orchestration.moments import Moments

JobOrder: TypeAlias = tuple[int, float, RequestId]


@dataclass(slots=True)
class Job:
    """A request that has arrived and not ended."""

    request: Request
    received_s: float
    queued_s: float
    """Since when it has waited for a worker to run it."""
    moments: Moments = field(default_factory=Moments)
    state: State = State.QUEUED
    output: tuple[TokenId, ...] = ()
    """Output tokens that its client has, as far as we were told: complete whenever nobody computes for it."""
    attempts: int = 0
    attempt: int | None = None
    """Number of the attempt that carries it now (being placed, running, or stopping before it is queued
    again)."""
    placements: list[Placement] = field(default_factory=list[Placement])
    failures: list[str] = field(default_factory=list[str])
    """Error code of each attempt that a worker's loss or a missed deadline has ended."""
    blocked_since_s: float | None = None
    """Since when it has been at the head of the queue and found no room."""
    cached_tokens: int = 0
    handoff: HandoffReport = field(default_factory=HandoffReport)

    @property
    def request_id(self) -> RequestId:
        """The name of the request."""
        return self.request.request_id

    @property
    def order(self) -> JobOrder:
        """Its place in the queue, the same after every resumption: priority, arrival, name."""
        return (self.request.priority, self.received_s, self.request_id)

    @property
    def tokens(self) -> int:
        """Prompt and output tokens that exist: what the next prefill covers."""
        return len(self.request.prompt_token_ids) + len(self.output)

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

    def hashes(self, block_tokens: int) -> tuple[BlockHash, ...]:
        """Hashes of all full blocks of prompt and output."""
        known = self.request.block_hashes
        if not self.output:
            return known
        parent = known[-1] if known else self.request.cache_root
        rest = (*self.request.prompt_token_ids, *self.output)[len(known) * block_tokens :]
        return (*known, *extend_hashes(parent, rest, block_tokens))

    def work(self, attempt: int, block_tokens: int) -> Work:
        """The order that lets a worker go on from the tokens that exist."""
        return Work(
            request_id=self.request_id,
            attempt=attempt,
            token_ids=(*self.request.prompt_token_ids, *self.output),
            prompt_tokens=len(self.request.prompt_token_ids),
            sampling=self.request.sampling,
            cache_root=self.request.cache_root,
            block_hashes=self.hashes(block_tokens),
            priority=self.request.priority,
            arrival_s=self.received_s,
        )


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
