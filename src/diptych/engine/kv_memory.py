"""KV planes of all layers as tensors over one buffer.

Knows: where each plane lies (`KVLayout`). Does not know: who owns a block.

Shapes: B blocks, K kv heads, S slots per block, E head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from diptych.domain.errors import SpecError
from diptych.domain.kv import KVLayout
from diptych.kernels.seam import Planes


class KVMemory:
    """K and V of every layer, ``[B, K, S, E]`` each."""

    def __init__(self, layout: KVLayout, blocks: int, data: Tensor) -> None:
        if data.numel() < layout.segment_bytes(blocks):
            raise SpecError(
                f"kv memory has {data.numel()} bytes; {blocks} blocks need {layout.segment_bytes(blocks)}"
            )
        self.layout = layout
        self.blocks = blocks
        self.layers = tuple(
            Planes(_plane(layout, blocks, data, layer, False), _plane(layout, blocks, data, layer, True))
            for layer in range(layout.layers)
        )

    @classmethod
    def over(cls, layout: KVLayout, blocks: int, buffer: Any) -> KVMemory:
        """Planes over host memory that offers the buffer protocol; nothing is copied."""
        return cls(layout, blocks, torch.frombuffer(buffer, dtype=torch.uint8))

    @classmethod
    def allocate(cls, layout: KVLayout, blocks: int, device: torch.device) -> KVMemory:
        """Planes in zeroed memory of the device's own."""
        size = layout.segment_bytes(blocks)
        return cls(layout, blocks, torch.zeros(size, dtype=torch.uint8, device=device))

    def planes(self) -> Iterator[Tensor]:
        """All planes: K then V of each layer."""
        for layer in self.layers:
            yield layer.k_BKSE
            yield layer.v_BKSE


def _plane(layout: KVLayout, blocks: int, data: Tensor, layer: int, value: bool) -> Tensor:
    start = layout.plane_offset_bytes(layer, value, blocks)
    size = blocks * layout.plane_block_bytes
    typed = data[start : start + size].view(getattr(torch, layout.dtype))
    return typed.view(blocks, layout.kv_heads, layout.block_tokens, layout.head_dim)
