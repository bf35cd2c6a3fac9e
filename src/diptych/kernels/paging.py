"""Where the tokens of a sequence lie in a paged plane, as gather indices.

Knows: block tables and planes. Does not know: attention.

A plane ``[B, K, S, E]`` is read as rows of ``run`` consecutive slots of one head,
``[B * K * S / run, run * E]``. Gathering such rows head by head gives ``[K, tokens, E]`` without a
transposition.

Shapes: as in `seam`; U runs.
"""

from __future__ import annotations

import torch
from torch import Tensor


def run_rows(blocks: Tensor, offsets: Tensor, kv_heads: int, block_tokens: int, run_tokens: int) -> Tensor:
    """Row indices [..., K, U] of the runs that start ``offsets`` [..., U] tokens into ``blocks`` [..., U].

    ``run_tokens`` divides ``block_tokens``, and every offset (inside its block) is a multiple of it.
    """
    runs_per_block = block_tokens // run_tokens
    heads = torch.arange(kv_heads, device=blocks.device).unsqueeze(-1)
    within = (offsets // run_tokens).unsqueeze(-2)
    return (blocks.unsqueeze(-2) * kv_heads + heads) * runs_per_block + within


def as_runs(plane_BKSE: Tensor, run_tokens: int) -> Tensor:
    """The plane as rows of ``run_tokens`` slots (a view)."""
    return plane_BKSE.view(-1, run_tokens * plane_BKSE.shape[-1])


class Scratch:
    """Named buffers that grow and are never given back: a fresh large tensor per step costs page faults.

    A buffer is valid until the next `take` of the same name.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """An uninitialised tensor of ``shape`` with the dtype and device of ``like``."""
        elements = 1
        for size in shape:
            elements *= size
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < elements or buffer.dtype != like.dtype:
            buffer = torch.empty(elements, dtype=like.dtype, device=like.device)
            self._buffers[name] = buffer
        return buffer[:elements].view(shape)

    def gather(self, name: str, plane_BKSE: Tensor, rows: Tensor, run_tokens: int) -> Tensor:
        """The runs ``rows`` [..., K, U] of a plane, [..., K, U * run_tokens, E]."""
        width = plane_BKSE.shape[-1]
        flat = self.take(name, (rows.numel(), run_tokens * width), plane_BKSE)
        torch.index_select(as_runs(plane_BKSE, run_tokens), 0, rows.reshape(-1), out=flat)
        return flat.view(*rows.shape[:-1], rows.shape[-1] * run_tokens, width)
