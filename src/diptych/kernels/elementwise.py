"""Operations that all implementations compute alike: each output element depends on one row only.

Knows: norms, rotary embedding, activation, the KV store, choices. Does not know: linear maps, attention.

Shapes: as in `seam`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from diptych.kernels.drawing import draw
from diptych.kernels.seam import AttentionShape, DrawRule, HeadNorms, Planes, Rotation


class Elementwise:
    """Base of the implementations."""

    own_threads = False
    packing: str | None = "plain"

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `Kernels.rms_norm`. The mean runs over one row, in float32 whatever the dtype."""
        return functional.rms_norm(x, (x.shape[-1],), weight, eps)

    def add_norm(self, x_TD: Tensor, more_TD: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """See `Kernels.add_norm`."""
        sum_TD = x_TD + more_TD
        return sum_TD, self.rms_norm(sum_TD, weight_D, eps)

    def place(
        self,
        qkv_TN: Tensor,
        norms: HeadNorms | None,
        rotation: Rotation,
        planes: Planes,
        slots_T: Tensor,
        shape: AttentionShape,
    ) -> Tensor:
        """See `Kernels.place`."""
        q_THE, k_TKE, v_TKE = qkv_TN.unflatten(-1, (-1, shape.head_dim)).split(
            [shape.heads, shape.kv_heads, shape.kv_heads], dim=1
        )
        if norms is not None:
            q_THE = self.rms_norm(q_THE, norms.query_E, norms.eps)
            k_TKE = self.rms_norm(k_TKE, norms.key_E, norms.eps)
        self.write_kv(planes.k_BKSE, self.rope(k_TKE, rotation), slots_T)
        self.write_kv(planes.v_BKSE, v_TKE, slots_T)
        return self.rope(q_THE, rotation)

    def rope(self, x_THE: Tensor, rotation: Rotation) -> Tensor:
        """Rotary embedding of each head."""
        cos, sin = rotation.cos_TE.unsqueeze(1), rotation.sin_TE.unsqueeze(1)
        low, high = x_THE.chunk(2, dim=-1)
        return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)

    def silu_mul(self, gate_up_TI: Tensor) -> Tensor:
        """See `Kernels.silu_mul`."""
        gate_TI, up_TI = gate_up_TI.chunk(2, dim=-1)
        return functional.silu(gate_TI) * up_TI

    def gelu_mul(self, gate_up_TI: Tensor) -> Tensor:
        """See `Kernels.gelu_mul`."""
        gate_TI, up_TI = gate_up_TI.chunk(2, dim=-1)
        return functional.gelu(gate_TI, approximate="tanh") * up_TI

    def likeliest(self, logits_RV: Tensor) -> tuple[list[int], list[bool]]:
        """See `Kernels.likeliest`. A sum is finite only if every term is."""
        finite_R = logits_RV.sum(-1, dtype=torch.float32).isfinite()
        return logits_RV.argmax(-1).tolist(), finite_R.tolist()

    def write_kv(self, plane_BKSE: Tensor, x_TKE: Tensor, slots_T: Tensor) -> None:
        """Store row t in slot ``slots[t] = block * S + slot`` of K or V."""
        slots_per_block = plane_BKSE.shape[2]
        plane_BKSE[slots_T // slots_per_block, :, slots_T % slots_per_block] = x_TKE

    def draw(self, logits_RV: Tensor, rules: Sequence[DrawRule]) -> list[int]:
        """See `Kernels.draw`."""
        return draw(logits_RV, rules)
