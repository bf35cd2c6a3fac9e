"""Float32 kernels whose result for a row does not depend on what else is in the step, bit for bit.

Knows: tiles. Does not know: speed at any price.

A library picks its inner loops by the shape of a call, so equal rows get equal bits only if every call has
the same shape. Hence: linear maps run on tiles of a fixed number of rows (short ones are padded); attention
runs on fixed tiles of query rows × fixed tiles of positions aligned to the start of the sequence. Within a
tile a row's place does not matter (each output element is one dot product; the engine's warm-up compares
bits on this machine). Over tiles, the maximum is exact in any order and sums go in order of position; a
hidden position adds an exact zero. What remains works on one row alone, with functions that round alike in
vector and scalar code.

One step mixes decode rows and prompt chunks: short spans are computed together (`invariant_short`), a long
one by itself without copying its keys for every query tile (`invariant_long`). Both multiply the same tile
shapes and add in the same order, so a token gets the same bits from either.

Shapes: as in `seam`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor
from torch.nn import functional

from diptych.kernels.elementwise import Elementwise
from diptych.kernels.invariant_long import LongPlan, long_attention, plan_long
from diptych.kernels.invariant_short import ShortPlan, plan_short, short_attention
from diptych.kernels.invariant_tiles import query_tile_rows
from diptych.kernels.paging import Scratch
from diptych.kernels.quantised import RoundedWeight, plain
from diptych.kernels.seam import AttentionShape, PackedLinear, Span

CACHED_WEIGHT_BYTES = 4 << 20
"""A weight up to this size stays in the cores' caches between tiles."""


ALIGNMENT_BYTES = 64
"""What torch's own allocations are aligned to; a tensor mapped from a file need not be."""


@dataclass(frozen=True)
class InvariantPlan:
    """Short spans in groups of bounded memory, long spans one by one."""

    short: tuple[ShortPlan, ...]
    long: tuple[LongPlan, ...]
    shape: AttentionShape


class InvariantKernels(Elementwise):
    """Implements `Kernels` for float32."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._scratch = Scratch()

    def describe(self) -> str:
        """See `Kernels.describe`."""
        return "invariant kernels (a row's bits depend neither on its batch nor on chunking)"

    def pack(self, weight_ND: Tensor | RoundedWeight, bias_N: Tensor | None = None) -> PackedLinear:
        """Keeps the weight as it is, but on a cache line: alignment too may choose a library's inner loop."""
        weight_ND = plain(weight_ND, torch.float32).contiguous()
        if weight_ND.data_ptr() % ALIGNMENT_BYTES:
            weight_ND = weight_ND.clone()
        return PackedLinear(weight_ND, bias_N, weight_ND.shape[1], weight_ND.shape[0])

    def linear(self, x_TD: Tensor, packed: PackedLinear) -> Tensor:
        """See `Kernels.linear`. The bias is added apart, so that it is the same addition everywhere."""
        tokens, tile = x_TD.shape[0], linear_tile_rows(packed)
        missing = -tokens % tile
        padded = functional.pad(x_TD, (0, 0, 0, missing)) if missing else x_TD.contiguous()
        weight_DN = packed.weight.t()
        out = torch.empty(tokens + missing, packed.width_out, dtype=x_TD.dtype, device=x_TD.device)
        for first in range(0, tokens + missing, tile):
            torch.mm(padded[first : first + tile], weight_DN, out=out[first : first + tile])
        return out[:tokens] if packed.bias_N is None else out[:tokens] + packed.bias_N

    def silu_mul(self, gate_up_TI: Tensor) -> Tensor:
        """See `Kernels.silu_mul`. Torch's own silu rounds differently in the scalar tail of a vector loop,
        and where that tail falls depends on the size of the call and on the threads; its exp does not."""
        gate_TI, up_TI = gate_up_TI.chunk(2, dim=-1)
        return gate_TI / gate_TI.neg().exp_().add_(1.0) * up_TI

    def gelu_mul(self, gate_up_TI: Tensor) -> Tensor:
        """See `Kernels.gelu_mul`. As in `silu_mul`: ``(1 + tanh u) / 2`` is ``1 / (1 + exp(-2 u))``."""
        gate_TI, up_TI = gate_up_TI.chunk(2, dim=-1)
        twice_u_TI = (gate_TI + 0.044715 * (gate_TI * gate_TI * gate_TI)) * (8 / pi) ** 0.5
        return gate_TI / twice_u_TI.neg_().exp_().add_(1.0) * up_TI

    def plan_attention(self, spans: tuple[Span, ...], shape: AttentionShape) -> InvariantPlan:
        """See `Kernels.plan_attention`."""
        tile = query_tile_rows(shape)
        short = tuple(span for span in spans if span.rows <= tile)
        long = tuple(plan_long(span, shape, self._device) for span in spans if span.rows > tile)
        return InvariantPlan(plan_short(short, shape, self._device), long, shape)

    def attention(self, q_THE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, plan: InvariantPlan) -> Tensor:
        """See `Kernels.attention`."""
        out_THE = torch.empty_like(q_THE)
        q_THE = q_THE * plan.shape.head_dim**-0.5
        for group in plan.short:
            short_attention(q_THE, k_BKSE, v_BKSE, group, self._scratch, out_THE)
        for piece in plan.long:
            long_attention(q_THE, k_BKSE, v_BKSE, piece, self._scratch, out_THE)
        return out_THE


def linear_tile_rows(packed: PackedLinear) -> int:
    """Rows of a tile. It depends on the weight alone.

    Small tiles waste least at small batches. A weight too large for the caches is read again for every tile,
    so fewer, larger tiles pay there.
    """
    weight_bytes = packed.width_in * packed.width_out * packed.weight.element_size()
    return 8 if weight_bytes <= CACHED_WEIGHT_BYTES else 16
