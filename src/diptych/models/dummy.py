"""Seeded random weights at a model's real shape, for measuring without a checkpoint.

Knows: scales that keep activations finite. Does not know: any real model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.models.tensors import TensorSource

DRAWN_VALUES = 4_194_301
"""A matrix repeats this many drawn values: drawing is slow, copying is not. A prime, so that rows differ."""


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
        values = expected[0] * expected[1]
        drawn = torch.empty(min(values, DRAWN_VALUES), dtype=self._dtype)
        drawn.uniform_(-bound, bound, generator=self._generator)
        whole = drawn.repeat(-(-values // drawn.numel()))[:values]
        return whole.view(expected).to(self._device)
