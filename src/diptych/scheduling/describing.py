"""Sequences in the words of others: what the engine, the client and a cost model are told. Knows the domain's
words for a step; decides nothing."""

from __future__ import annotations

from diptych.domain.ids import RequestId
from diptych.domain.request import FinishReason, PromptLogprobs, Sampled, TokenOut
from diptych.domain.step import NewSequence, Slice, StepResult
from diptych.scheduling.sequence import Sequence


class ChunkShape:
    """The share of one prompt in a step."""

    __slots__ = ("cached_tokens", "new_tokens", "request_id", "sample")

    def __init__(self, request_id: RequestId, new_tokens: int, cached_tokens: int, sample: bool) -> None:
        self.request_id = request_id
        self.new_tokens = new_tokens
        self.cached_tokens = cached_tokens
        """Tokens before it whose KV is there."""
        self.sample = sample
        """Whether it ends the prompt, so that the first token comes out of it."""


class StepShape:
    """A step by its sizes, for who has no engine to run it: what a cost depends on, and who is in it."""

    __slots__ = ("chunks", "context_tokens", "copied_blocks", "decodes", "imports", "left_out", "step")

    def __init__(
        self,
        step: int,
        chunks: list[ChunkShape],
        decodes: int,
        context_tokens: int,
        imports: tuple[RequestId, ...],
        left_out: tuple[RequestId, ...],
        copied_blocks: int,
    ) -> None:
        self.step = step
        self.chunks = chunks
        self.decodes = decodes
        self.context_tokens = context_tokens
        """KV tokens that stand before the step, over all decodes."""
        self.imports = imports
        """Decodes that begin with this step."""
        self.left_out = left_out
        """Sequences that decode, but not in this step."""
        self.copied_blocks = copied_blocks


def decode_slice(sequence: Sequence) -> Slice:
    """Its last token, as the engine is told."""
    last = sequence.output[-1] if sequence.output else sequence.prompt[-1]
    return Slice(
        request_id=sequence.request_id,
        token_ids=(last,),
        start=sequence.computed,
        block_table=_table(sequence),
        sample=True,
    )


def chunk_slice(sequence: Sequence, count: int) -> Slice:
    """The next ``count`` tokens of its prompt, as the engine is told."""
    stop = sequence.computed + count
    return Slice(
        request_id=sequence.request_id,
        token_ids=tuple(sequence.tokens_in(sequence.computed, stop)),
        start=sequence.computed,
        block_table=_table(sequence),
        sample=stop == sequence.tokens,
    )


def chunk_shape(sequence: Sequence, count: int) -> ChunkShape:
    """The next ``count`` tokens of its prompt, by their number."""
    return ChunkShape(sequence.request_id, count, sequence.computed, count == sequence.remaining)


def introduction(sequence: Sequence) -> NewSequence:
    """What the engine has to know of it."""
    return NewSequence(
        request_id=sequence.request_id,
        token_ids=sequence.work.token_ids,
        more_token_ids=tuple(sequence.output),
        prompt_tokens=sequence.work.prompt_tokens,
        sampling=sequence.work.sampling,
    )


def token_out(sequence: Sequence, sampled: Sampled, reason: FinishReason | None) -> TokenOut:
    """The token that was appended last, for its client."""
    return TokenOut(
        request_id=sequence.request_id,
        attempt=sequence.attempt,
        index=sequence.output_tokens - 1,
        token_id=sampled.token_id,
        logprob=sampled.logprob,
        finish_reason=reason,
        stop_token_id=sampled.token_id if reason is FinishReason.STOP else None,
    )


def prompt_logprobs(sequence: Sequence, start: int, result: StepResult) -> list[PromptLogprobs]:
    """Entries of the slice that began at ``start``, if its client wants them."""
    entries = result.prompt_logprobs.get(sequence.request_id, ())
    if not entries:
        return []
    return [
        PromptLogprobs(
            request_id=sequence.request_id, attempt=sequence.attempt, start=start + 1, entries=entries
        )
    ]


def _table(sequence: Sequence) -> tuple[int, ...]:
    """A tuple that is made anew only when the table has grown: it is told in every step."""
    if len(sequence.table) != len(sequence.block_table):
        sequence.table = tuple(sequence.block_table)
    return sequence.table
