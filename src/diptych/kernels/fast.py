"""The quickest that plain torch offers on a device; a row's last bits may depend on its batch.

Knows: prepacked oneDNN weights, flash attention over a sequence gathered into a reused buffer. Does not
know: bitwise promises.

Shapes: as in `seam`; L context tokens, Q rows of one span.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from diptych.kernels.elementwise import Elementwise
from diptych.kernels.paging import Scratch, run_rows
from diptych.kernels.quantised import RoundedWeight, plain
from diptych.kernels.reference import visible
from diptych.kernels.seam import AttentionShape, PackedLinear, Span


@dataclass(frozen=True)
class _SpanPlan:
    span: Span
    rows_KU: Tensor
    """Gather indices of the blocks of the sequence, head by head."""
    mask_QL: Tensor | None
    """None where causality alone decides (a prompt from its start) or everything is seen (decode)."""


@dataclass(frozen=True)
class FastPlan:
    """One gather and one mask per span."""

    spans: tuple[_SpanPlan, ...]
    shape: AttentionShape


class FastKernels(Elementwise):
    """Implements `Kernels`."""

    def __init__(self, device: torch.device, dtype: torch.dtype, instead_of: str = "") -> None:
        """``instead_of``: said in the banner, why nothing quicker was chosen."""
        self._device = device
        self._dtype = dtype
        self._instead_of = f"; {instead_of}" if instead_of else ""
        self._prepack = device.type == "cpu" and dtype == torch.bfloat16 and _can_prepack()
        self.packing = None if self._prepack else "plain"
        self._scratch = Scratch()

    def describe(self) -> str:
        """See `Kernels.describe`."""
        linear = "prepacked oneDNN" if self._prepack else "torch"
        return f"fast kernels ({linear} linear maps, flash attention over gathered blocks{self._instead_of})"

    def pack(self, weight_ND: Tensor | RoundedWeight, bias_N: Tensor | None = None) -> PackedLinear:
        """Reorder once into oneDNN's blocked form where that pays (bfloat16 on CPU)."""
        weight_ND = plain(weight_ND, self._dtype)
        width_out, width_in = weight_ND.shape
        if not self._prepack:
            return PackedLinear(weight_ND, bias_N, width_in, width_out)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight_ND.contiguous())
        return PackedLinear(packed, bias_N, width_in, width_out, opaque=True)

    def linear(self, x_TD: Tensor, packed: PackedLinear) -> Tensor:
        """See `Kernels.linear`."""
        if not packed.opaque:
            return functional.linear(x_TD, packed.weight, packed.bias_N)
        return torch.ops.mkldnn._linear_pointwise(x_TD, packed.weight, packed.bias_N, "none", [], "")

    def plan_attention(self, spans: tuple[Span, ...], shape: AttentionShape) -> FastPlan:
        """See `Kernels.plan_attention`."""
        tables = [span.blocks[: -(-span.context // shape.block_tokens)] for span in spans]
        blocks = torch.tensor([block for table in tables for block in table], device=self._device)
        start = torch.zeros_like(blocks)
        rows = run_rows(blocks, start, shape.kv_heads, shape.block_tokens, shape.block_tokens)
        pieces = zip(spans, rows.split([len(table) for table in tables], dim=1), strict=True)
        return FastPlan(tuple(self._plan_span(span, rows_KU, shape) for span, rows_KU in pieces), shape)

    def _plan_span(self, span: Span, rows_KU: Tensor, shape: AttentionShape) -> _SpanPlan:
        windowed = shape.window is not None and span.context > shape.window
        plain = not windowed and (span.start == 0 or span.rows == 1)
        mask_QL = None if plain else visible(span, shape.window, self._device)
        return _SpanPlan(span, rows_KU.contiguous(), mask_QL)

    def attention(self, q_THE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, plan: FastPlan) -> Tensor:
        """See `Kernels.attention`."""
        out_THE = torch.empty_like(q_THE)
        for piece in plan.spans:
            span, block_tokens = piece.span, plan.shape.block_tokens
            rows = slice(span.first_row, span.first_row + span.rows)
            k_KLE = self._scratch.gather("k", k_BKSE, piece.rows_KU, block_tokens)[:, : span.context]
            v_KLE = self._scratch.gather("v", v_BKSE, piece.rows_KU, block_tokens)[:, : span.context]
            out_HQE = functional.scaled_dot_product_attention(
                q_THE[rows].transpose(0, 1).unsqueeze(0),
                k_KLE.unsqueeze(0),
                v_KLE.unsqueeze(0),
                attn_mask=piece.mask_QL,
                is_causal=piece.mask_QL is None and span.rows > 1,
                enable_gqa=plan.shape.group > 1,
            )[0]
            out_THE[rows] = out_HQE.transpose(0, 1)
        return out_THE


def _can_prepack() -> bool:
    """Whether this build of torch has the oneDNN operators and runs them in bfloat16 here."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    probe = torch.zeros(16, 16, dtype=torch.bfloat16)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(probe)
        torch.ops.mkldnn._linear_pointwise(probe, packed, None, "none", [], "")
    except (RuntimeError, AttributeError, NotImplementedError):  # how torch says "not on this CPU"
        return False
    return True
