"""The sizes of a language model that decide what a step costs: parameters, KV bytes, FLOPs.

Knows: the arithmetic of `docs/planning.md` (work per phase). Does not know: how configs spell the sizes
(`model_config` does), hardware, files.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from diptych.domain.errors import SpecError

KVType = Literal["bf16", "fp8"]

WEIGHT_BYTES = {"bf16": 2.0, "fp8": 1.0, "fp4": 0.5625}
"""Bytes of one weight. fp4: 4 bits and an 8-bit scale for each 16 weights (NVFP4)."""

KV_BYTES = {"bf16": 2.0, "fp8": 1.0}
"""Bytes of one KV element."""

STATE_FLOPS = 6
"""Multiplications and additions per state element and token of a gated delta rule layer: read with the key,
add the outer product, read with the query (2 each). Decay and gates are smaller than that by a head width."""


class WeightBytes(msgspec.Struct, frozen=True, kw_only=True):
    """Weights split by who shares them."""

    experts: float
    """Routed experts, all of them."""
    others: float
    """Everything else: read whole in every step."""

    @property
    def total(self) -> float:
        """Both together."""
        return self.experts + self.others


class ModelSizes(msgspec.Struct, frozen=True, kw_only=True):
    """One decoder-only model. Layers are full attention, windowed or linear; some or all have experts."""

    name: str
    architecture: str
    source: str = ""
    confidence: str = ""
    layers: int
    full_layers: int
    """Layers that attend to everything before them (L_f)."""
    window_layers: int = 0
    window_tokens: int = 0
    """What a windowed layer sees, the token itself included."""
    linear_layers: int = 0
    """Layers with a constant state in place of KV."""
    hidden: int
    heads: int
    head_dim: float
    """Width of one head in the attention term; MLA: mean of key and value width, as prefill computes it."""
    decode_head_dim: float
    """The same for decode; MLA: mean of the latent key and value, which decode reads without expanding."""
    kv_heads: int
    """Heads that a KV cache can be split over; 1 for MLA, whose latent vector cannot be split."""
    kv_elements: int
    """KV elements of one token in one attention layer: 2·K·d, or the latent width of MLA."""
    latent_kv: bool = False
    """MLA: the cache holds one latent vector per token and layer."""
    state_bytes_per_layer: int = 0
    """Constant state of one sequence in one linear layer (float32 state, bf16 convolution tail)."""
    state_elements_per_layer: int = 0
    """Elements of the recurrent state alone, for FLOPs."""
    index_topk: int = 0
    """Tokens that sparse attention keeps (DeepSeek sparse attention); 0: all."""
    index_layers: int = 0
    """Layers that score tokens themselves; the other sparse ones reuse what these kept."""
    index_width: int = 0
    """Index heads times index head width."""
    index_key_dim: int = 0
    """Width of the index key that is cached per token and layer beside the KV (fp8 and one float32 scale)."""
    experts: int = 0
    experts_per_token: int = 0
    expert_layers: int = 0
    parameters: int
    """All of them (P), without modules for speculation or vision."""
    expert_parameters: int = 0
    """Routed experts of all layers (P_e)."""
    embedding_parameters: int
    """Input embeddings that are looked up and not multiplied (0 where they are tied to the LM head)."""
    head_parameters: int
    """The LM head: multiplied for sampled positions only."""
    vocab: int
    max_positions: int = 0

    def __post_init__(self) -> None:
        if self.full_layers + self.window_layers + self.linear_layers != self.layers:
            raise SpecError(f"{self.name}: full, windowed and linear layers do not add up to {self.layers}")
        if bool(self.experts) != bool(self.experts_per_token) or self.experts_per_token > self.experts:
            raise SpecError(f"{self.name}: {self.experts_per_token} of {self.experts} experts is impossible")

    # ------------------------------------------------------------ parameters

    @property
    def active_parameters(self) -> int:
        """Parameters that one token uses (P_a): all but the experts it is not routed to."""
        if not self.experts:
            return self.parameters
        return self.parameters - self.expert_parameters + self.active_expert_parameters

    @property
    def active_expert_parameters(self) -> int:
        """Routed experts that one token uses: the share k/E of P_e."""
        return self.expert_parameters * self.experts_per_token // self.experts if self.experts else 0

    @property
    def linear_parameters(self) -> int:
        """Parameters multiplied for every token: P_a without input embeddings and LM head."""
        return self.active_parameters - self.embedding_parameters - self.head_parameters

    def expert_coverage(self, tokens: float) -> float:
        """Share of the routed experts that ``tokens`` tokens of one step reach: ``1 − (1 − k/E)^B``."""
        if not self.experts:
            return 0.0
        return 1.0 - (1.0 - self.experts_per_token / self.experts) ** max(0.0, tokens)

    def weight_bytes(self, precision: str) -> WeightBytes:
        """All weights held as ``precision`` ('bf16', 'fp8' or 'fp4')."""
        width = _width(WEIGHT_BYTES, precision, "weight precision")
        experts = self.expert_parameters * width
        return WeightBytes(experts=experts, others=self.parameters * width - experts)

    def step_weight_bytes(self, precision: str, tokens: float) -> float:
        """Weights that one step over ``tokens`` tokens reads: everything but the experts nobody reaches."""
        weights = self.weight_bytes(precision)
        return weights.others + weights.experts * self.expert_coverage(tokens)

    # ------------------------------------------------------------ KV

    def kv_bytes_per_token(self, dtype: str) -> float:
        """The part of a sequence's KV that grows with every token (full attention layers)."""
        return self.full_layers * self.kv_elements * _width(KV_BYTES, dtype, "KV dtype")

    def kv_bytes_per_token_formal(self, dtype: str) -> float:
        """What one token adds while it is in every window: full and windowed layers."""
        return self.kv_bytes_per_token(dtype) + self._window_bytes_per_token(dtype)

    def kv_constant_bytes(self, dtype: str) -> float:
        """The part that stays, once windows are full: windows and the states of linear layers."""
        return self._window_bytes_per_token(dtype) * self.window_tokens + self.state_bytes

    def kv_bytes(self, tokens: float, dtype: str) -> float:
        """KV and state of one sequence of ``tokens`` tokens."""
        windows = self._window_bytes_per_token(dtype) * min(tokens, self.window_tokens)
        return self.kv_bytes_per_token(dtype) * tokens + windows + (self.state_bytes if tokens else 0)

    @property
    def state_bytes(self) -> int:
        """States of one sequence in all linear layers; their precision does not follow the KV's."""
        return self.linear_layers * self.state_bytes_per_layer

    @property
    def index_bytes_per_token(self) -> int:
        """Index keys of sparse attention beside the KV (fp8 and a float32 scale per layer). Not part of
        `kv_bytes`, which counts what every MLA model holds."""
        return self.index_layers * (self.index_key_dim + 4)

    def _window_bytes_per_token(self, dtype: str) -> float:
        return self.window_layers * self.kv_elements * _width(KV_BYTES, dtype, "KV dtype")

    # ------------------------------------------------------------ FLOPs

    def prefill_flops(self, new_tokens: int, cached_tokens: int = 0, *, last: bool = True) -> float:
        """FLOPs of ``new_tokens`` behind ``cached_tokens``; the LM head counts once, if ``last``.

        ``2·P·n + 4·H·d·Σ_layers ∫ min(x, window) dx`` from c to c + n, P without embeddings: with no
        window the integral is n·c + n²/2.
        """
        n, c = new_tokens, cached_tokens
        linear = 2.0 * self.linear_parameters * n + (2.0 * self.head_parameters if last else 0.0)
        return linear + self._attention_flops(c, c + n, self.head_dim) + n * self._state_flops

    def decode_flops(self, context_tokens: float) -> float:
        """FLOPs of one token behind ``context_tokens``: ``2·P + 4·H·d·Σ_layers min(x, window)``."""
        x = context_tokens
        linear = 2.0 * (self.linear_parameters + self.head_parameters)
        seen = self.full_layers * self._kept(x) + self.window_layers * min(x, self.window_tokens)
        attention = 4.0 * self.heads * self.decode_head_dim * seen
        return linear + attention + self._index_flops(x, x + 1) + self._state_flops

    def _attention_flops(self, start: float, end: float, head_dim: float) -> float:
        full = _area(start, end, self.index_topk or None)
        window = _area(start, end, self.window_tokens)
        seen = self.full_layers * full + self.window_layers * window
        return 4.0 * self.heads * head_dim * seen + self._index_flops(start, end)

    def _index_flops(self, start: float, end: float) -> float:
        """Sparse attention's index scores: one dot product per index head and earlier token."""
        return 2.0 * self.index_layers * self.index_width * _area(start, end, None)

    def _kept(self, context: float) -> float:
        return min(context, self.index_topk) if self.index_topk else context

    @property
    def _state_flops(self) -> float:
        return float(STATE_FLOPS * self.linear_layers * self.state_elements_per_layer)


def _area(start: float, end: float, limit: float | None) -> float:
    """``∫ min(x, limit) dx`` from ``start`` to ``end``; no limit: None."""
    if limit is None:
        return (end * end - start * start) / 2.0
    rising_end = min(end, limit)
    rising = max(0.0, rising_end * rising_end - min(start, limit) ** 2) / 2.0
    return rising + limit * max(0.0, end - max(start, limit))


def _width(table: dict[str, float], key: str, what: str) -> float:
    width = table.get(key)
    if width is None:
        raise SpecError(f"{what} {key!r} is not one of {', '.join(table)}")
    return width
