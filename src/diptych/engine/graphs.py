"""Decode steps as recorded graphs, one for each size of batch.

Launching the kernels of a decode step one by one takes longer than running them. So a step in which every
sequence has one token, and every token is followed by a sampled one, is padded to the next of a few batch
sizes and replayed; every other step runs as usual.

Knows: batch sizes, padding, what stays in place. Does not know: how work is recorded, how attention holds its
tables.

A padded row is token 0 at position 0 of a sequence in a spare block that nobody owns: it reads and writes
there alone, so the other rows are what they would be without it.

Shapes: N rows of a graph, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from diptych.domain.kv import blocks_for
from diptych.engine.capture import Capture, Graph
from diptych.engine.inputs import StepInputs
from diptych.engine.kv_memory import KVMemory
from diptych.engine.runner import Runner, Scores
from diptych.kernels.seam import AttentionShape, Span
from diptych.models.decoder import Decoder, DecoderInputs

FINE_STEP = 8
"""Beyond 4 rows, batches are padded to multiples of this."""


class HeldPlan(Protocol):
    """An attention plan whose sequences can be exchanged in place."""

    def refill(self, spans: Sequence[Span]) -> None:
        """Prepare it for other decodes, as many as before."""
        ...


class HoldingKernels(Protocol):
    """Kernels whose attention plans can stay in place."""

    def held_blocks(self, blocks: int, most_blocks: int, shape: AttentionShape) -> int:
        """How many blocks a row gets in a graph for ``blocks``; few values, so that graphs are few."""
        ...

    # What attention reads belongs to the implementation, as in `Kernels.plan_attention`.
    def hold(self, rows: int, blocks: int, shape: AttentionShape) -> Any:
        """A `HeldPlan` for ``rows`` decodes of up to ``blocks`` blocks; None if that were too much memory."""
        ...


def batch_sizes(most_rows: int) -> tuple[int, ...]:
    """1, 2, 4, then multiples of 8, and ``most_rows`` itself."""
    sizes = {1, 2, 4, *range(FINE_STEP, most_rows, FINE_STEP), most_rows}
    return tuple(sorted(size for size in sizes if size <= most_rows))


@dataclass(frozen=True)
class _Held:
    """One graph and the memory that it reads."""

    inputs: DecoderInputs
    plans: Mapping[int | None, HeldPlan]
    graph: Graph


class GraphRunner(Runner):
    """A `Runner` that replays decode steps. The last block of its memory must belong to nobody."""

    def __init__(
        self,
        decoder: Decoder,
        memory: KVMemory,
        kernels: HoldingKernels,
        capture: Capture,
        device: torch.device,
        most_rows: int,
    ) -> None:
        super().__init__(decoder, memory)
        block_tokens = memory.layout.block_tokens
        self._kernels = kernels
        self._capture = capture
        self._device = device
        self._sizes = batch_sizes(most_rows)
        self._shapes = decoder.attention_shapes(block_tokens)
        self._most_blocks = blocks_for(decoder.shape.max_positions, block_tokens)
        self._block_tokens = block_tokens
        self._spare = memory.blocks - 1
        self._held: dict[tuple[int, int], _Held | None] = {}

    @property
    def graphs(self) -> int:
        """How many there are."""
        return sum(held is not None for held in self._held.values())

    def capture_short(self) -> None:
        """Record the graphs of all batch sizes for short contexts; others follow when they are needed."""
        for size in self._sizes:
            self._find(size, 1)

    def scores(self, inputs: StepInputs) -> Scores:
        """See `Runner.scores`. The logits of a replay are valid until the next step."""
        spans = inputs.decoder.spans
        size = next((size for size in self._sizes if size >= len(spans)), None)
        if size is None or not _is_decode(inputs):
            return super().scores(inputs)
        held = self._find(size, max(blocks_for(span.context, self._block_tokens) for span in spans))
        if held is None:
            return super().scores(inputs)
        self._fill(held, inputs.decoder)
        return self.judged(held.graph.replay()[: len(spans)])

    def _find(self, size: int, blocks: int) -> _Held | None:
        """The graph for a batch; None where one would take too much memory."""
        shape = next(iter(self._shapes.values()))
        width = self._kernels.held_blocks(blocks, self._most_blocks, shape)
        if (size, width) not in self._held:
            self._held[size, width] = self._record(size, width)
        return self._held[size, width]

    def _record(self, size: int, width: int) -> _Held | None:
        plans = {window: self._kernels.hold(size, width, shape) for window, shape in self._shapes.items()}
        if None in plans.values():
            return None
        spans = self._padding(0, size)
        for plan in plans.values():
            plan.refill(spans)
        token_ids_N = torch.zeros(size, dtype=torch.int64, device=self._device)
        slots_N = torch.full_like(token_ids_N, self._spare * self._block_tokens)
        inputs = DecoderInputs(token_ids_N, torch.zeros_like(token_ids_N), slots_N, spans)

        def run() -> Tensor:
            hidden_ND = self._decoder.forward(inputs, self._memory.layers, plans)
            return self._decoder.logits(hidden_ND)

        return _Held(inputs, plans, self._capture.capture(run))

    def _fill(self, held: _Held, step: DecoderInputs) -> None:
        spare_slot = self._spare * self._block_tokens
        _fill(held.inputs.token_ids_T, step.token_ids_T, 0)
        _fill(held.inputs.positions_T, step.positions_T, 0)
        _fill(held.inputs.slots_T, step.slots_T, spare_slot)
        spans = (*step.spans, *self._padding(len(step.spans), held.inputs.token_ids_T.shape[0]))
        for plan in held.plans.values():
            plan.refill(spans)

    def _padding(self, first: int, size: int) -> tuple[Span, ...]:
        return tuple(Span(row, 1, 0, (self._spare,)) for row in range(first, size))


def _is_decode(inputs: StepInputs) -> bool:
    """Whether every span is one row from which a token is sampled. Nothing else can be wanted of such rows:
    what follows them is no part of a prompt."""
    spans = inputs.decoder.spans
    return len(inputs.samples) == len(spans) and all(span.rows == 1 for span in spans)


def _fill(held_N: Tensor, values_T: Tensor, rest: int) -> None:
    rows = values_T.shape[0]
    held_N[:rows].copy_(values_T)
    held_N[rows:].fill_(rest)
