"""A `StepPlan` packed into tensors.

Knows: positions, slots, which rows need logits. Does not know: weights, sampling rules.

Shapes: T packed tokens, R rows with logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from diptych.domain.errors import Bug
from diptych.domain.step import Slice, StepPlan
from diptych.engine.sequences import Sequences, SequenceState
from diptych.kernels.seam import Span
from diptych.kernels.upload import upload
from diptych.models.decoder import DecoderInputs, Wanted


@dataclass(frozen=True)
class PromptRows:
    """Logits rows whose next token is known, because it belongs to the prompt."""

    state: SequenceState
    first: int
    """First of the consecutive rows of the logits."""
    start: int
    """Position of the token that the first row predicts."""
    count: int


@dataclass(frozen=True)
class SampleRow:
    """A logits row from which a token is sampled."""

    state: SequenceState
    row: int
    output_index: int


@dataclass(frozen=True)
class StepInputs:
    """What the forward pass and the sampler read."""

    decoder: DecoderInputs
    """Wanted are the rows that need logits."""
    samples: tuple[SampleRow, ...]
    prompts: tuple[PromptRows, ...]


def pack_step(plan: StepPlan, sequences: Sequences, block_tokens: int, device: torch.device) -> StepInputs:
    """Pack all slices of ``plan``, in their order. Raises `Bug` for a block table that is too short."""
    spans, rows = _spans(plan, block_tokens), _LogitRows()
    for piece, span in zip(plan.slices, spans, strict=True):
        rows.add(piece, sequences.of(piece), span)
    positions = [p for piece in plan.slices for p in range(piece.start, piece.start + len(piece.token_ids))]
    decoder = DecoderInputs(
        token_ids_T=upload([t for piece in plan.slices for t in piece.token_ids], torch.int64, device),
        positions_T=upload(positions, torch.int64, device),
        slots_T=upload(
            [s for piece in plan.slices for s in _slots(piece, block_tokens)], torch.int64, device
        ),
        spans=spans,
        wanted=None if rows.spans == spans else Wanted(upload(rows.packed, torch.int64, device), rows.spans),
    )
    return StepInputs(decoder, tuple(rows.samples), tuple(rows.prompts))


class _LogitRows:
    """Collects the rows that need logits: of each slice some neighbours."""

    def __init__(self) -> None:
        self.packed: list[int] = []
        self.samples: list[SampleRow] = []
        self.prompts: list[PromptRows] = []
        self._spans: list[Span] = []

    @property
    def spans(self) -> tuple[Span, ...]:
        """Those of the rows, packed without the others."""
        return tuple(self._spans)

    def add(self, piece: Slice, state: SequenceState, span: Span) -> None:
        """Rows of one slice."""
        before, count = len(self.packed), 0
        if state.sampling.prompt_logprobs is not None:
            count = max(0, min(span.context, state.prompt_tokens - 1) - span.start)
        if count:
            self.prompts.append(PromptRows(state, before, piece.start + 1, count))
            self.packed.extend(range(span.first_row, span.first_row + count))
        if piece.sample:
            self.samples.append(SampleRow(state, len(self.packed), span.context - state.prompt_tokens))
            self.packed.append(span.first_row + span.rows - 1)
        rows = len(self.packed) - before
        if rows:
            start = span.start + self.packed[before] - span.first_row
            self._spans.append(Span(before, rows, start, span.blocks))


def _spans(plan: StepPlan, block_tokens: int) -> tuple[Span, ...]:
    spans: list[Span] = []
    first = 0
    for piece in plan.slices:
        span = Span(first, len(piece.token_ids), piece.start, piece.block_table)
        if not span.rows or len(piece.block_table) * block_tokens < span.context:
            raise Bug(f"{piece.request_id}: {span.context} tokens in {len(piece.block_table)} blocks")
        spans.append(span)
        first += span.rows
    return tuple(spans)


def _slots(piece: Slice, block_tokens: int) -> list[int]:
    table, end = piece.block_table, piece.start + len(piece.token_ids)
    return [table[p // block_tokens] * block_tokens + p % block_tokens for p in range(piece.start, end)]
