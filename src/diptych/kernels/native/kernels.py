"""bfloat16 kernels on AVX-512, with AMX where the processor has it.

Every output row is computed in an order that depends on the row alone, so its bits depend neither on the
batch nor on how a prompt was cut nor on threads (docs/numerics.md).
Knows: tensors as memory for the library. Does not know: how the library computes.

Shapes: as in `seam`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.domain.cluster import WeightFormat
from diptych.kernels.fast import FastKernels, FastPlan
from diptych.kernels.native.load import VERSION
from diptych.kernels.quantised import RoundedWeight
from diptych.kernels.seam import (
    AttentionShape,
    DrawRule,
    HeadNorms,
    PackedLinear,
    Planes,
    Rotation,
    Span,
)

ALIGNMENT_BYTES = 64
"""Of packed weights: one cache line."""

MOST_PLACED_DIM = 512
"""Head width of which one fits the room for a normed head."""

FORMATS: dict[WeightFormat, int] = {"same": 0, "int8": 1, "int4": 2}
"""As the library numbers them."""

MOST_WHOLE_INPUTS = 1 << 17
"""Of a rounded weight: more products of two int8 could be more than an int32 holds."""

MOST_HEAD_DIM, HEAD_DIM_STEP, MOST_GROUP = 256, 32, 16
"""What the attention kernel takes; other shapes go to torch."""


@dataclass(frozen=True)
class NativePlan:
    """Spans (first row, rows, start, place of the block table) and block tables."""

    spans: Tensor
    tables: Tensor
    count: int
    shape: AttentionShape


class NativeKernels:
    """Implements `Kernels` for bfloat16 on the CPU. Uses threads of its own."""

    own_threads = True
    """Torch's threads would wait in the way of these: whoever uses these gives torch one."""

    packing: str | None = f"native {VERSION}"

    def __init__(self, library: ctypes.CDLL, threads: int) -> None:
        self._call = library
        self._threads = threads
        self._torch = FastKernels(torch.device("cpu"), torch.bfloat16)
        library.dp_set_threads(threads)

    def describe(self) -> str:
        """See `Kernels.describe`."""
        unit = "AVX-512 and AMX" if self._call.dp_on_tiles() else "AVX-512"
        return f"native kernels ({unit} in bfloat16, batch-invariant, threads: {self._threads})"

    def pack(self, weight_ND: Tensor | RoundedWeight, bias_N: Tensor | None = None) -> PackedLinear:
        """In the order in which tiles read it, rounded weights in their own size."""
        if isinstance(weight_ND, RoundedWeight) and weight_ND.codes_ND.shape[1] > MOST_WHOLE_INPUTS:
            weight_ND = weight_ND.dequantised(torch.bfloat16)
        rounded = weight_ND if isinstance(weight_ND, RoundedWeight) else None
        weights: WeightFormat = "same" if rounded is None else rounded.weights
        factors_NG = (
            None if rounded is None or rounded.factors_NG is None else rounded.factors_NG.contiguous()
        )
        scales_N = None if rounded is None else rounded.scales_N.contiguous()
        values_ND = _bf16(weight_ND) if isinstance(weight_ND, Tensor) else weight_ND.codes_ND
        values_ND = values_ND.contiguous()
        outputs, width = values_ND.shape
        packed = _room(self._call.dp_linear_bytes(FORMATS[weights], outputs, width))
        self._call.dp_linear_pack(
            FORMATS[weights],
            values_ND.data_ptr(),
            None if factors_NG is None else factors_NG.data_ptr(),
            None if scales_N is None else scales_N.data_ptr(),
            outputs,
            width,
            packed.data_ptr(),
        )
        bias_N = None if bias_N is None else _bf16(bias_N).contiguous()
        return PackedLinear(packed, bias_N, width, outputs, opaque=True, weights=weights)

    def linear(self, x_TD: Tensor, packed: PackedLinear) -> Tensor:
        """See `Kernels.linear`."""
        x_TD = _rows(x_TD, packed.width_in)
        rows, outputs, bias = x_TD.shape[0], packed.width_out, packed.bias_N
        out_TN = torch.empty((rows, outputs), dtype=torch.bfloat16)
        self._call.dp_linear(
            FORMATS[packed.weights],
            x_TD.data_ptr(),
            x_TD.stride(0),
            rows,
            packed.weight.data_ptr(),
            None if bias is None else bias.data_ptr(),
            outputs,
            packed.width_in,
            out_TN.data_ptr(),
            outputs,
            0,
        )
        return out_TN

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `Kernels.rms_norm`. One product, one rounding: torch's own rounds the same."""
        width = x.shape[-1]
        inner = 1 if x.dim() < 3 else x.shape[-2]
        x = x if x.dim() <= 3 and _inner_is_dense(x) else x.contiguous()
        out = torch.empty(x.shape, dtype=torch.bfloat16)
        rows = x.numel() // max(1, inner * width)
        stride = x.stride(0) if x.dim() in (2, 3) else inner * width
        self._call.dp_rms_norm(
            _bf16(x).data_ptr(), rows, stride, inner, width, _bf16(weight).data_ptr(), eps, out.data_ptr()
        )
        return out

    def add_norm(self, x_TD: Tensor, more_TD: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """See `Kernels.add_norm`."""
        x_TD, more_TD = _bf16(x_TD).contiguous(), _bf16(more_TD).contiguous()
        sum_TD, normed_TD = torch.empty_like(x_TD), torch.empty_like(x_TD)
        rows, width = x_TD.shape
        if more_TD.shape != x_TD.shape:
            raise ValueError(f"a sum of {tuple(x_TD.shape)} and {tuple(more_TD.shape)}")
        self._call.dp_add_norm(
            x_TD.data_ptr(),
            more_TD.data_ptr(),
            rows,
            width,
            _bf16(weight_D).data_ptr(),
            eps,
            sum_TD.data_ptr(),
            normed_TD.data_ptr(),
        )
        return sum_TD, normed_TD

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
        keys, values = planes.k_BKSE, planes.v_BKSE
        if not (keys.is_contiguous() and values.is_contiguous()) or shape.head_dim > MOST_PLACED_DIM:
            return self._torch.place(qkv_TN, norms, rotation, planes, slots_T, shape)
        qkv_TN = _rows(qkv_TN, (shape.heads + 2 * shape.kv_heads) * shape.head_dim)
        cos_TE, sin_TE = rotation.cos_TE.contiguous(), rotation.sin_TE.contiguous()
        slots_T = slots_T.to(torch.int64).contiguous()
        q_THE = torch.empty((qkv_TN.shape[0], shape.heads, shape.head_dim), dtype=torch.bfloat16)
        self._call.dp_place(
            qkv_TN.data_ptr(),
            qkv_TN.shape[0],
            qkv_TN.stride(0),
            shape.heads,
            shape.kv_heads,
            shape.head_dim,
            None if norms is None else _bf16(norms.query_E).data_ptr(),
            None if norms is None else _bf16(norms.key_E).data_ptr(),
            0.0 if norms is None else norms.eps,
            _bf16(cos_TE).data_ptr(),
            _bf16(sin_TE).data_ptr(),
            slots_T.data_ptr(),
            shape.block_tokens,
            _bf16(keys).data_ptr(),
            _bf16(values).data_ptr(),
            q_THE.data_ptr(),
        )
        return q_THE

    def silu_mul(self, gate_up_TI: Tensor) -> Tensor:
        """See `Kernels.silu_mul`."""
        return _gated(self._call.dp_silu_mul, gate_up_TI)

    def gelu_mul(self, gate_up_TI: Tensor) -> Tensor:
        """See `Kernels.gelu_mul`."""
        return _gated(self._call.dp_gelu_mul, gate_up_TI)

    def likeliest(self, logits_RV: Tensor) -> tuple[list[int], list[bool]]:
        """See `Kernels.likeliest`. A NaN may be the highest: who asks looks at the second answer first."""
        logits_RV = _bf16(logits_RV).contiguous()
        rows, width = logits_RV.shape
        if not width:
            raise ValueError("a row without scores has no likeliest one")
        ids_R, finite_R = torch.empty(rows, dtype=torch.int64), torch.empty(rows, dtype=torch.bool)
        self._call.dp_likeliest(logits_RV.data_ptr(), rows, width, ids_R.data_ptr(), finite_R.data_ptr())
        return ids_R.tolist(), finite_R.tolist()

    def draw(self, logits_RV: Tensor, rules: Sequence[DrawRule]) -> list[int]:
        """See `Kernels.draw`. Float32 is read as it is."""
        wide = logits_RV.dtype == torch.float32
        logits_RV = (logits_RV if wide else _bf16(logits_RV)).contiguous()
        rows, width = logits_RV.shape
        if len(rules) != rows or not width:
            raise ValueError(f"{len(rules)} rules for {rows} rows of {width} scores")
        rules_R5 = torch.tensor(
            [(rule.temperature, rule.min_p, rule.top_k, rule.top_p, rule.u) for rule in rules],
            dtype=torch.float64,
        )
        ids_R = torch.empty(rows, dtype=torch.int64)
        self._call.dp_draw(
            logits_RV.data_ptr(), int(wide), rows, width, rules_R5.data_ptr(), ids_R.data_ptr()
        )
        return ids_R.tolist()

    def plan_attention(self, spans: tuple[Span, ...], shape: AttentionShape) -> NativePlan | FastPlan:
        """See `Kernels.plan_attention`."""
        width = shape.head_dim
        if width % HEAD_DIM_STEP or width > MOST_HEAD_DIM or shape.group > MOST_GROUP:
            return self._torch.plan_attention(spans, shape)
        tables: list[int] = []
        places: list[tuple[int, int, int, int]] = []
        for span in spans:
            places.append((span.first_row, span.rows, span.start, len(tables)))
            tables.extend(span.blocks[: -(-span.context // shape.block_tokens)])
        return NativePlan(
            torch.tensor(places, dtype=torch.int32),
            torch.tensor(tables, dtype=torch.int32),
            len(spans),
            shape,
        )

    def attention(self, q_THE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, plan: NativePlan | FastPlan) -> Tensor:
        """See `Kernels.attention`."""
        if isinstance(plan, FastPlan):
            return self._torch.attention(q_THE, k_BKSE, v_BKSE, plan)
        if not (k_BKSE.is_contiguous() and v_BKSE.is_contiguous()):
            raise ValueError("planes of paged memory must be contiguous")
        shape = plan.shape
        q_THE = q_THE if _inner_is_dense(q_THE) else q_THE.contiguous()
        out_THE = torch.empty(q_THE.shape, dtype=torch.bfloat16)
        self._call.dp_attention(
            _bf16(q_THE).data_ptr(),
            q_THE.stride(0),
            _bf16(k_BKSE).data_ptr(),
            _bf16(v_BKSE).data_ptr(),
            out_THE.data_ptr(),
            out_THE.stride(0),
            plan.spans.data_ptr(),
            plan.count,
            plan.tables.data_ptr(),
            shape.heads,
            shape.kv_heads,
            shape.head_dim,
            shape.block_tokens,
            shape.window or 0,
        )
        return out_THE


def _gated(gate_mul: Callable[[int, int, int, int], None], gate_up_TI: Tensor) -> Tensor:
    gate_up_TI = _bf16(gate_up_TI).contiguous()
    rows, width = gate_up_TI.shape[0], gate_up_TI.shape[1] // 2
    out_TI = torch.empty((rows, width), dtype=torch.bfloat16)
    gate_mul(gate_up_TI.data_ptr(), rows, width, out_TI.data_ptr())
    return out_TI


def _room(size_bytes: int) -> Tensor:
    """Memory of its own for a packed weight, on a cache line."""
    room = torch.empty(size_bytes + ALIGNMENT_BYTES, dtype=torch.uint8)
    return room[-room.data_ptr() % ALIGNMENT_BYTES :][:size_bytes]


def _bf16(x: Tensor) -> Tensor:
    """``x``; memory of another type would be read as nonsense."""
    if x.dtype != torch.bfloat16:
        raise TypeError(f"native kernels compute in bfloat16, not in {x.dtype}")
    return x


def _rows(x_TD: Tensor, width: int) -> Tensor:
    if x_TD.shape[1] != width:
        raise ValueError(f"rows of {x_TD.shape[1]} for a map of {width} inputs")
    return _bf16(x_TD if x_TD.stride(1) == 1 else x_TD.contiguous())


def _inner_is_dense(x: Tensor) -> bool:
    """Whether one row lies in one piece; rows may lie apart."""
    if x.dim() == 3:
        return x.stride(2) == 1 and x.stride(1) == x.shape[2]
    return x.stride(-1) == 1
