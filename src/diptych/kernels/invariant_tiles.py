"""Tile sizes of invariant attention, and which positions of a tile a query row sees.

Knows: the fixed shapes. Does not know: how tiles are scheduled.

Shapes: as in `seam`; Q query rows of a tile, L positions of a kv tile.
"""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor

from diptych.kernels.seam import AttentionShape

KV_TILE_TOKENS = 64
"""Positions of one kv tile; tile j holds positions [64 j, 64 j + 64) of its sequence."""

QUERY_TILE_TARGET = 8
"""Rows of a query tile, counting every query head that shares a kv head: below this the matrix unit idles,
above it decode (one token a sequence) pads too much."""


def query_tile_rows(shape: AttentionShape) -> int:
    """Tokens of one query tile. Depends on the model alone."""
    return max(1, QUERY_TILE_TARGET // shape.group)


def gather_run_tokens(shape: AttentionShape) -> int:
    """The longest run of slots that lies in one block and in one kv tile."""
    return gcd(KV_TILE_TOKENS, shape.block_tokens)


def kv_tiles(first: int, last: int, window: int | None) -> range:
    """The kv tiles in which any of the query positions ``first..last`` sees something."""
    earliest = 0 if window is None else max(0, first - window + 1)
    return range(earliest // KV_TILE_TOKENS, last // KV_TILE_TOKENS + 1)


def hidden(query_Q: Tensor, key_L: Tensor, window: int | None) -> Tensor:
    """Which positions the query rows do not see, bool [..., Q, L] for positions [..., Q] and [..., L]."""
    query, key = query_Q.unsqueeze(-1), key_L.unsqueeze(-2)
    unseen = key > query
    return unseen if window is None else unseen | (key <= query - window)


def tile_positions(tiles: Tensor) -> Tensor:
    """Positions [..., L] of kv tiles [...]."""
    return tiles.unsqueeze(-1) * KV_TILE_TOKENS + torch.arange(KV_TILE_TOKENS, device=tiles.device)


def products(left_PRX: Tensor, right_PXC: Tensor, out_PRC: Tensor) -> Tensor:
    """Products of P pairs of tiles into ``out``. A single pair gets company: a library may share one product
    among threads, with sums in another order than it has in a batch (seen for 5 to 7 rows on AMD)."""
    if left_PRX.shape[0] == 1:
        return out_PRC.copy_(torch.bmm(left_PRX.expand(2, -1, -1), right_PXC.expand(2, -1, -1))[:1])
    return torch.bmm(left_PRX, right_PXC, out=out_PRC)
