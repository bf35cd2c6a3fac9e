"""Seeded random weights at a model's real shape, for measuring without a checkpoint.

Knows: scales that keep activations finite. Does not know: any real model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.models.decoder import TensorSource


class DummyWeights(TensorSource):
    """Norms are one, biases zero, matrices uniform with variance 1 / fan-in (uniform is quick to draw)."""

    def __init__(self, seed: int, dtype: torch.dtype, device: torch.device) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._dtype = dtype
        self._device = device

    def take(self, name: str, expected: tuple[int, ...]) -> Tensor:
        """See `TensorSource.take`."""
        if len(expected) == 1:
            fill = 0.0 if name.endswith(".bias") else 1.0
            return torch.full(expected, fill, dtype=self._dtype, device=self._device)
        bound = (3.0 / expected[1]) ** 0.5
        drawn = torch.empty(expected, dtype=self._dtype).uniform_(-bound, bound, generator=self._generator)
        return drawn.to(self._device)
