"""Steps of one engine on one card or two, from the card's figures (T8).

Knows: ``step = max(bytes/(W·η), FLOP/(F·µ)) + L·c0 + all-reduces``. Does not know: catalogues, schedulers.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from diptych.performance.steps import Chunks, Line, StepModel

BYTES = 2
"""Of a weight and of a KV element: bf16."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A dense model."""

    parameters: float
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_width: int

    @property
    def kv_bytes(self) -> int:
        """Of one token."""
        return 2 * self.layers * self.kv_heads * self.head_width * BYTES


@dataclass(frozen=True, slots=True)
class Card:
    """One card: rates already times their efficiencies, fixed seconds of a layer, its bus to others."""

    bytes_per_s: float
    flops: float
    layer_s: float
    bus_bytes_per_s: float = inf
    all_reduce_s: float = 0.0


@dataclass(frozen=True, slots=True)
class CardSteps(StepModel):
    """A shape on one card or several."""

    shape: Shape
    card: Card
    held_tokens: int
    """Of KV."""
    cards: int = 1

    @property
    def kv_tokens(self) -> int:
        """See `StepModel`."""
        return self.held_tokens

    def step_s(self, chunks: Chunks, decodes: int, context_tokens: int) -> float:
        """See `StepModel`."""
        if not chunks and not decodes:
            return 0.0
        new = decodes + sum(n for n, _ in chunks)
        held = context_tokens + decodes + sum(n + c for n, c in chunks)
        pairs = context_tokens + decodes / 2
        pairs += sum(n * c + n * n / 2 for n, c in chunks)
        return max(self._memory_s(held), self._compute_s(new, pairs)) + self._fixed_s(new)

    def decode_lines(self, decodes: int) -> tuple[Line, ...]:
        """See `StepModel`: one line for memory, one for compute."""
        fixed_s = self._fixed_s(decodes)
        memory = Line(fixed_s + self._memory_s(decodes), self._memory_s(1) - self._memory_s(0))
        compute = Line(
            fixed_s + self._compute_s(decodes, decodes / 2), self._compute_s(0, 1) - self._compute_s(0, 0)
        )
        return memory, compute

    def _memory_s(self, held_tokens: float) -> float:
        moved = BYTES * self.shape.parameters + self.shape.kv_bytes * held_tokens
        return moved / self.cards / self.card.bytes_per_s

    def _compute_s(self, tokens: float, pairs: float) -> float:
        """``pairs``: attended positions, summed over new tokens."""
        shape = self.shape
        flop = 2 * shape.parameters * tokens + 4 * shape.layers * shape.heads * shape.head_width * pairs
        return flop / self.cards / self.card.flops

    def _fixed_s(self, tokens: float) -> float:
        layers_s = self.shape.layers * self.card.layer_s
        if self.cards == 1:
            return layers_s
        share = 2 * (self.cards - 1) / self.cards
        reduced_s = (
            share * tokens * self.shape.hidden * BYTES / self.card.bus_bytes_per_s + self.card.all_reduce_s
        )
        return layers_s + 2 * self.shape.layers * reduced_s
