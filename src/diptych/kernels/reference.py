"""The plain truth: every operation as its formula, one sequence at a time.

Knows: correctness. Does not know: speed.

Shapes: as in `seam`; L context tokens, Q rows of one span.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from diptych.kernels.elementwise import Elementwise
from diptych.kernels.quantised import RoundedWeight, plain
from diptych.kernels.seam import AttentionShape, PackedLinear, Span


@dataclass(frozen=True)
class ReferencePlan:
    """Nothing is prepared."""

    spans: tuple[Span, ...]
    shape: AttentionShape


class ReferenceKernels(Elementwise):
    """Implements `Kernels`."""

    def describe(self) -> str:
        """See `Kernels.describe`."""
        return "reference kernels (formulas as written; slow)"

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """``x / sqrt(mean(x²) + eps) * weight``."""
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight

    def pack(self, weight_ND: Tensor | RoundedWeight, bias_N: Tensor | None = None) -> PackedLinear:
        """Keeps the weight as it is; a rounded one in float32, which the formulas take."""
        weight_ND = plain(weight_ND, torch.float32)
        return PackedLinear(weight_ND, bias_N, weight_ND.shape[1], weight_ND.shape[0])

    def linear(self, x_TD: Tensor, packed: PackedLinear) -> Tensor:
        """See `Kernels.linear`."""
        return functional.linear(x_TD, packed.weight, packed.bias_N)

    def plan_attention(self, spans: tuple[Span, ...], shape: AttentionShape) -> ReferencePlan:
        """See `Kernels.plan_attention`."""
        return ReferencePlan(spans, shape)

    def attention(self, q_THE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, plan: ReferencePlan) -> Tensor:
        """Softmax(Q Kᵀ / √E) V with the scores in float32."""
        out_THE = torch.empty_like(q_THE)
        for span in plan.spans:
            rows = slice(span.first_row, span.first_row + span.rows)
            k_HLE = _sequence(k_BKSE, span, plan.shape)
            v_HLE = _sequence(v_BKSE, span, plan.shape)
            scores_HQL = q_THE[rows].transpose(0, 1).float() @ k_HLE.float().transpose(1, 2)
            scores_HQL = scores_HQL * plan.shape.head_dim**-0.5
            scores_HQL.masked_fill_(~visible(span, plan.shape.window, q_THE.device), float("-inf"))
            out_THE[rows] = (scores_HQL.softmax(-1) @ v_HLE.float()).transpose(0, 1).to(q_THE.dtype)
        return out_THE


def visible(span: Span, window: int | None, device: torch.device) -> Tensor:
    """Which position each row of a span sees, bool [Q, L]."""
    query_Q = torch.arange(span.start, span.context, device=device).unsqueeze(1)
    key_L = torch.arange(span.context, device=device)
    seen = key_L <= query_Q
    return seen if window is None else seen & (key_L > query_Q - window)


def _sequence(plane_BKSE: Tensor, span: Span, shape: AttentionShape) -> Tensor:
    """The context of a span, each kv head repeated for its query heads, [H, L, E]."""
    blocks = torch.tensor(span.blocks, device=plane_BKSE.device)
    x_KLE = plane_BKSE[blocks].transpose(0, 1).flatten(1, 2)[:, : span.context]
    return x_KLE.repeat_interleave(shape.group, dim=0)
