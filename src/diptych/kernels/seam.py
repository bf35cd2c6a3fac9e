"""The operations that a model is made of: one signature each.

Knows: signatures and the geometry of a step. Does not know: how any of it is computed.

Shapes: T packed tokens, R rows with logits, V vocabulary, D width of an input, N width of an output, I width
of the MLP, H query heads, K kv heads, E head width, B blocks, S slots per block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from diptych.domain.cluster import WeightFormat
from diptych.kernels.quantised import RoundedWeight


@dataclass(frozen=True)
class PackedLinear:
    """A linear map in the form that one implementation of the kernels wants; only that one may read it."""

    weight: Tensor
    bias_N: Tensor | None
    width_in: int
    width_out: int
    opaque: bool = False
    """Whether ``weight`` is in a library's private order instead of [N, D]."""
    weights: WeightFormat = "same"
    """In which numbers ``weight`` is held."""


@dataclass(frozen=True)
class Span:
    """Packed rows ``[first_row, first_row + rows)``: positions ``[start, start + rows)`` of a sequence."""

    first_row: int
    rows: int
    start: int
    blocks: tuple[int, ...]
    """Blocks of the sequence in order; they hold at least ``context`` tokens."""

    @property
    def context(self) -> int:
        """Tokens that the last row of the span sees, its own included."""
        return self.start + self.rows


@dataclass(frozen=True)
class AttentionShape:
    """What attention must know of the model and of the KV memory."""

    heads: int
    kv_heads: int
    head_dim: int
    block_tokens: int
    window: int | None = None
    """A token sees this many positions, its own included; None: all."""

    @property
    def group(self) -> int:
        """Query heads that share one kv head."""
        return self.heads // self.kv_heads


@dataclass(frozen=True)
class HeadNorms:
    """Weights, [E], of the norms that all heads of q and all of k share."""

    query_E: Tensor
    key_E: Tensor
    eps: float


@dataclass(frozen=True)
class Rotation:
    """Rotary embedding of each row, [T, E/2]; pairs are (i, i + E/2)."""

    cos_TE: Tensor
    sin_TE: Tensor


@dataclass(frozen=True)
class Planes:
    """K and V of one layer, each [B, K, S, E]."""

    k_BKSE: Tensor
    v_BKSE: Tensor


@dataclass(frozen=True)
class DrawRule:
    """How a token is drawn from one row.

    Filters, in this order: min-p keeps tokens at least ``min_p`` times as likely as the likeliest; top-k
    keeps the k likeliest (0: all); top-p keeps the likeliest whose probabilities first reach ``top_p`` of
    what the others left. Tokens that tie with the last one kept are kept as well.
    """

    temperature: float
    min_p: float
    top_k: int
    top_p: float
    u: float
    """In [0, 1): which share of the kept probability lies before the token."""


class Kernels(Protocol):
    """One implementation."""

    own_threads: bool
    """Whether it computes on threads of its own, so that torch's would be in the way."""

    packing: str | None
    """Names the form that `pack` gives: equal names, equal bytes for equal weights. None: a library keeps it
    where no other process can read it."""

    def describe(self) -> str:
        """One line for the start banner: which implementation, and what it promises."""
        ...

    def pack(self, weight_ND: Tensor | RoundedWeight, bias_N: Tensor | None = None) -> PackedLinear:
        """Prepare a weight for `linear`. The caller may drop its own reference afterwards.

        A rounded weight is multiplied as what it was rounded to, in memory of its own size or of the dtype's.
        """
        ...

    def linear(self, x_TD: Tensor, packed: PackedLinear) -> Tensor:
        """``x Wᵀ + b``, [T, N]."""
        ...

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Each last-dimension vector divided by its root mean square, times ``weight``."""
        ...

    def add_norm(self, x_TD: Tensor, more_TD: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """The sum of both, and `rms_norm` of the sum."""
        ...

    def place(
        self,
        qkv_TN: Tensor,
        norms: HeadNorms | None,
        rotation: Rotation,
        planes: Planes,
        slots_T: Tensor,
        shape: AttentionShape,
    ) -> Tensor:
        """From a merged projection (q, then k, then v) to what attention needs: heads of q and k are normed,
        if the model has norms for them, and rotated; k and v of row t are stored in slot
        ``slots[t] = block * S + slot``. q, [T, H, E]."""
        ...

    def silu_mul(self, gate_up_TI: Tensor) -> Tensor:
        """``silu(gate) * up`` of the merged [T, 2I] projection, [T, I]."""
        ...

    def gelu_mul(self, gate_up_TI: Tensor) -> Tensor:
        """``gelu(gate) * up`` as `silu_mul`, with the tanh form of gelu."""
        ...

    def likeliest(self, logits_RV: Tensor) -> tuple[list[int], list[bool]]:
        """Of each row the first id with the highest score, and whether all its scores are finite."""
        ...

    def draw(self, logits_RV: Tensor, rules: Sequence[DrawRule]) -> list[int]:
        """A token of each row by its rule: the first id at which the running sum of what the filters keep
        exceeds ``u`` times all of it."""
        ...

    # An attention plan is made once per step and read by every layer; its type belongs to the implementation.
    def plan_attention(self, spans: tuple[Span, ...], shape: AttentionShape) -> Any:
        """Indices and masks for `attention`, which all layers of a step share."""
        ...

    def attention(self, q_THE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, plan: Any) -> Tensor:
        """Causal attention of every span over its own sequence in paged memory, [T, H, E].

        K and V of the span itself are in the planes already.
        """
        ...
