"""The operations on a CUDA device: what is quickest there, without promises about the last bits.

Knows: which rows of a step go which way. Does not know: how attention is computed, graphs.

All of it runs on a CPU as well, which is how it is tested. A forward pass copies nothing back to the host,
but for mixtures of experts, whose groups are counted there.

Shapes: as in `seam`; N rows of one kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from diptych.kernels.elementwise import Elementwise
from diptych.kernels.gathered import GatheredAttention
from diptych.kernels.quantised import RoundedWeight, plain
from diptych.kernels.seam import AttentionShape, PackedLinear, Span
from diptych.kernels.upload import upload


class Attend(Protocol):
    """Attention that is prepared for some spans."""

    def attend(self, q_NHE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor) -> Tensor:
        """Of the rows of these spans, packed in their order, [N, H, E]."""
        ...


class HeldAttend(Attend, Protocol):
    """Attention over tensors that keep their places, so that a graph can be replayed over other sequences."""

    def refill(self, spans: Sequence[Span]) -> None:
        """Prepare it for other decodes: as many as before, none longer than what it holds."""
        ...


class PagedAttention(Protocol):
    """One way to compute attention over pages."""

    def decodes(self, spans: Sequence[Span], shape: AttentionShape) -> Attend:
        """For spans of one row each; there is at least one."""
        ...

    def prompts(self, spans: Sequence[Span], shape: AttentionShape) -> Attend:
        """For spans of any length; there is at least one."""
        ...

    def held_blocks(self, blocks: int, most_blocks: int) -> int:
        """How many blocks a row gets in a graph for ``blocks``; few values, so that graphs are few."""
        ...

    def hold(self, rows: int, blocks: int, shape: AttentionShape) -> HeldAttend | None:
        """For ``rows`` decodes with up to ``blocks`` blocks each; None if that were too much memory."""
        ...


class Library(PagedAttention, Protocol):
    """One that takes some shapes only."""

    def takes(self, shape: AttentionShape) -> bool:
        """Whether it can."""
        ...


@dataclass(frozen=True)
class _Part:
    rows_N: Tensor | None
    """Packed rows; None: all."""
    attend: Attend


@dataclass(frozen=True)
class CudaPlan:
    """Decodes together, prompts together."""

    parts: tuple[_Part, ...]


class CudaKernels(Elementwise):
    """Implements `Kernels`."""

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        library: Library | None,
        instead_of: str = "",
        gathered: PagedAttention | None = None,
    ) -> None:
        """``library``: preferred where it takes a shape. ``instead_of``: said in the banner, why there is
        none. ``gathered``: for everything else; None: torch's."""
        self._device = device
        self._dtype = dtype
        self._library = library
        self._instead_of = f"; {instead_of}" if instead_of else ""
        self._gathered: PagedAttention = gathered or GatheredAttention(device)

    def describe(self) -> str:
        """See `Kernels.describe`."""
        how = "torch's attention over gathered pages"
        if self._library is not None:
            how = f"FlashInfer; {how} for head widths that it does not take"
        return f"CUDA kernels ({how}{self._instead_of})"

    def pack(self, weight_ND: Tensor | RoundedWeight, bias_N: Tensor | None = None) -> PackedLinear:
        """Keeps the weight as it is; a rounded one in the dtype of the model."""
        weight_ND = plain(weight_ND, self._dtype)
        return PackedLinear(weight_ND, bias_N, weight_ND.shape[1], weight_ND.shape[0])

    def linear(self, x_TD: Tensor, packed: PackedLinear) -> Tensor:
        """See `Kernels.linear`."""
        return functional.linear(x_TD, packed.weight, packed.bias_N)

    def plan_attention(self, spans: tuple[Span, ...], shape: AttentionShape) -> CudaPlan:
        """See `Kernels.plan_attention`."""
        way = self._way(shape)
        decodes = [span for span in spans if span.rows == 1]
        prompts = [span for span in spans if span.rows > 1]
        if not prompts:
            return CudaPlan((_Part(None, way.decodes(decodes, shape)),) if decodes else ())
        if not decodes:
            return CudaPlan((_Part(None, way.prompts(prompts, shape)),))
        return CudaPlan(
            (
                _Part(self._rows(decodes), way.decodes(decodes, shape)),
                _Part(self._rows(prompts), way.prompts(prompts, shape)),
            )
        )

    def attention(self, q_THE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, plan: CudaPlan) -> Tensor:
        """See `Kernels.attention`."""
        out_THE = torch.empty_like(q_THE)
        for part in plan.parts:
            if part.rows_N is None:
                return part.attend.attend(q_THE, k_BKSE, v_BKSE)
            q_NHE = q_THE.index_select(0, part.rows_N)
            out_THE.index_copy_(0, part.rows_N, part.attend.attend(q_NHE, k_BKSE, v_BKSE))
        return out_THE

    def held_blocks(self, blocks: int, most_blocks: int, shape: AttentionShape) -> int:
        """See `PagedAttention.held_blocks`."""
        return self._way(shape).held_blocks(blocks, most_blocks)

    def hold(self, rows: int, blocks: int, shape: AttentionShape) -> HeldPlan | None:
        """A plan for `attention` that can be refilled; None if that were too much memory."""
        held = self._way(shape).hold(rows, blocks, shape)
        return None if held is None else HeldPlan((_Part(None, held),), held)

    def _way(self, shape: AttentionShape) -> PagedAttention:
        return self._library if self._library is not None and self._library.takes(shape) else self._gathered

    def _rows(self, spans: Sequence[Span]) -> Tensor:
        rows = [row for span in spans for row in range(span.first_row, span.first_row + span.rows)]
        return upload(rows, torch.int64, self._device)


@dataclass(frozen=True)
class HeldPlan(CudaPlan):
    """A plan whose sequences can be exchanged."""

    held: HeldAttend

    def refill(self, spans: Sequence[Span]) -> None:
        """See `HeldAttend.refill`."""
        self.held.refill(spans)
