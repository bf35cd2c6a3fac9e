"""Operations that all implementations compute alike: each output element depends on one row only.

Knows: norms, rotary embedding, activation, the KV store. Does not know: linear maps, attention.

Shapes: as in `seam`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


class Elementwise:
    """Base of the implementations."""

    own_threads = False

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `Kernels.rms_norm`. The mean runs over one row, in float32 whatever the dtype."""
        return functional.rms_norm(x, (x.shape[-1],), weight, eps)

    def rope(self, x_THE: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
        """See `Kernels.rope`."""
        cos, sin = cos_TE.unsqueeze(1), sin_TE.unsqueeze(1)
        low, high = x_THE.chunk(2, dim=-1)
        return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)

    def silu_mul(self, gate_up_TI: Tensor) -> Tensor:
        """See `Kernels.silu_mul`."""
        gate_TI, up_TI = gate_up_TI.chunk(2, dim=-1)
        return functional.silu(gate_TI) * up_TI

    def likeliest(self, logits_RV: Tensor) -> tuple[list[int], list[bool]]:
        """See `Kernels.likeliest`. A sum is finite only if every term is."""
        finite_R = logits_RV.sum(-1, dtype=torch.float32).isfinite()
        return logits_RV.argmax(-1).tolist(), finite_R.tolist()

    def write_kv(self, plane_BKSE: Tensor, x_TKE: Tensor, slots_T: Tensor) -> None:
        """See `Kernels.write_kv`."""
        slots_per_block = plane_BKSE.shape[2]
        plane_BKSE[slots_T // slots_per_block, :, slots_T % slots_per_block] = x_TKE
