"""Copies of whole blocks inside one domain.

Knows: planes. Does not know: why a block is copied (a decode worker takes over a partly filled one).

Shapes: B blocks, K kv heads, S slots per block, E head width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from diptych.domain.ids import BlockId


def copy_blocks(planes: Iterable[Tensor], pairs: Sequence[tuple[BlockId, BlockId]]) -> int:
    """Copy each (source, target) block in every plane ``[B, K, S, E]``; bytes copied.

    Pairs are performed in order, so a target may be the source of a later pair.
    """
    copied_bytes = 0
    for plane_BKSE in planes:
        for source, target in pairs:
            plane_BKSE[target].copy_(plane_BKSE[source])
        copied_bytes += len(pairs) * plane_BKSE[0].nbytes
    return copied_bytes
