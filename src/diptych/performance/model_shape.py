"""The shape of a decoder-only language model, read from its Hugging Face `config.json`.

Knows: which sizes matter, how configs spell them, and the FLOPs and bytes that follow from them. Does not
know: files (it is handed a parsed dictionary), tensors, hardware.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import cast

import msgspec

from diptych.domain.errors import SpecError
from diptych.domain.ids import TokenId
from diptych.domain.kv import DTYPE_BYTES, KVLayout
from diptych.performance.config_reader import ConfigReader
from diptych.performance.mixture_shape import MixtureShape, mixture_shape
from diptych.performance.model_layers import LayerAttention, parse_layer_attention
from diptych.performance.model_rope import longest_context

SUPPORTED_ARCHITECTURES = (
    "Gemma3ForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
)
"""Architecture names (`architectures[0]` of config.json) that the built-in engine runs."""

UNSUPPORTED_OPTIONS = (
    "attention_bias",
    "mlp_bias",
    "quantization_config",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "use_bidirectional_attention",
)


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """All that distinguishes one supported model from another."""

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    mixture: MixtureShape | None = None
    """The experts that layers have instead of one MLP."""
    vocab: int
    attention: tuple[LayerAttention, ...]
    """One for each layer."""
    rms_eps: float
    tie_embeddings: bool
    qkv_bias: bool
    qk_norm: bool
    layer_norms: int = 2
    """Norms of the width of the model in a layer."""
    query_pre_attn_scalar: int
    """Scores are divided by its root; the head width in all families but one."""
    max_positions: int
    dtype: str
    """As stored in the checkpoint: 'float32', 'bfloat16' or 'float16'."""
    eos_token_ids: tuple[TokenId, ...] = ()

    def __post_init__(self) -> None:
        sizes = (self.layers, self.hidden, self.heads, self.kv_heads, self.head_dim, self.intermediate)
        if min(*sizes, self.vocab, self.max_positions) < 1:
            raise SpecError(f"every size of a model shape must be positive: {self}")
        if self.heads % self.kv_heads:
            raise SpecError(f"{self.heads} query heads cannot share {self.kv_heads} kv heads evenly")
        if self.head_dim % 2:
            raise SpecError(f"head_dim {self.head_dim} is odd; rotary embedding needs pairs")

    @property
    def query_width(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of all key (or value) heads together."""
        return self.kv_heads * self.head_dim

    def mixture_of(self, layer: int) -> MixtureShape | None:
        """The experts of a layer; None if it has one MLP."""
        return None if self.mixture is None or layer in self.mixture.dense_layers else self.mixture

    @property
    def linear_params(self) -> int:
        """Weights of the linear maps of all layers: q, k, v, output, gate, up, down, routers (no biases)."""
        return self._linear_params(self.mixture.experts if self.mixture else 0)

    @property
    def active_linear_params(self) -> int:
        """Those that one token meets: of the experts only as many as it uses."""
        return self._linear_params(self.mixture.experts_per_token if self.mixture else 0)

    def _linear_params(self, experts: int) -> int:
        attention = self.hidden * (2 * self.query_width + 2 * self.kv_width)
        dense = 3 * self.hidden * self.intermediate
        if self.mixture is None:
            return self.layers * (attention + dense)
        dense_layers = len(self.mixture.dense_layers)
        sparse = self.hidden * (self.mixture.experts + 3 * experts * self.mixture.width)
        return self.layers * attention + dense_layers * dense + (self.layers - dense_layers) * sparse

    @property
    def parameters(self) -> int:
        """All parameters; tied embeddings count once."""
        norms = self.layer_norms * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        bias = self.query_width + 2 * self.kv_width if self.qkv_bias else 0
        embeddings = self.vocab * self.hidden * (1 if self.tie_embeddings else 2)
        return self.linear_params + self.layers * (norms + bias) + embeddings + self.hidden

    def kv_layout(self, block_tokens: int, dtype: str) -> KVLayout:
        """Layout of this model's KV memory in blocks of ``block_tokens`` of ``dtype``."""
        return KVLayout(
            layers=self.layers,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            block_tokens=block_tokens,
            dtype=dtype,
        )

    def compute_dtype(self, wanted: str) -> str:
        """The dtype that weights and KV are held in; ``wanted`` is a dtype or 'auto'.

        A float16 checkpoint runs in float32 by default: bfloat16 would cut its mantissa, and CPUs are no
        faster in float16.
        """
        if wanted != "auto":
            return wanted
        return "float32" if self.dtype == "float16" else self.dtype

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of all parameters held as ``dtype``."""
        return self.parameters * DTYPE_BYTES[dtype]

    def linear_flops(self, tokens: int, sampled: int) -> int:
        """FLOPs of the linear maps over ``tokens`` tokens and of the LM head over ``sampled`` rows
        (2 per weight and token)."""
        return 2 * (tokens * self.active_linear_params + sampled * self.hidden * self.vocab)

    def attention_flops(self, tokens: int, start: int) -> int:
        """FLOPs of causal attention of positions ``[start, start + tokens)`` over all before them
        (QKᵀ and PV, 2 per multiply-add; a sliding window bounds what each sees)."""
        layers = Counter(layer.window for layer in self.attention)
        seen = sum(
            count * min(position + 1, window or position + 1)
            for window, count in layers.items()
            for position in range(start, start + tokens)
        )
        return 4 * self.query_width * seen


def parse_model_shape(
    config: Mapping[str, object], source: str, generation: Mapping[str, object] | None = None
) -> ModelShape:
    """Shape from a parsed `config.json`; ``source`` names the file in error messages.

    ``generation`` is the parsed `generation_config.json`, whose EOS ids win where it has some.

    Raises:
        SpecError: an unknown architecture, a missing or ill-typed key, a feature that is not supported.
    """
    reader = ConfigReader(config, source)
    architecture = _architecture(reader)
    _refuse_unsupported(reader, architecture)
    heads, hidden = reader.integer("num_attention_heads"), reader.integer("hidden_size")
    layers, positions = reader.integer("num_hidden_layers"), reader.integer("max_position_embeddings")
    attention = parse_layer_attention(reader, architecture, layers)
    gemma = architecture == "Gemma3ForCausalLM"
    head_dim = reader.integer("head_dim", 256 if gemma else hidden // heads)
    return ModelShape(
        architecture=architecture,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=reader.integer("num_key_value_heads", heads),
        head_dim=head_dim,
        intermediate=reader.integer("intermediate_size"),
        mixture=mixture_shape(reader, architecture, layers),
        vocab=reader.integer("vocab_size"),
        attention=attention,
        rms_eps=reader.number("rms_norm_eps"),
        tie_embeddings=_tie_embeddings(reader, default=gemma),
        qkv_bias=architecture == "Qwen2ForCausalLM",
        qk_norm=architecture in ("Gemma3ForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM"),
        layer_norms=4 if gemma else 2,
        query_pre_attn_scalar=reader.integer("query_pre_attn_scalar", 256) if gemma else head_dim,
        max_positions=max(longest_context(layer.rope, positions) for layer in attention),
        dtype=_dtype(reader),
        eos_token_ids=_eos_ids(generation or {}) or _eos_ids(config),
    )


def _architecture(reader: ConfigReader) -> str:
    names = reader.get("architectures")
    if not isinstance(names, list) or not names:
        raise SpecError(f"{reader.source} lacks the key 'architectures'")
    name = str(cast("list[object]", names)[0])
    if name not in SUPPORTED_ARCHITECTURES:
        supported = ", ".join(SUPPORTED_ARCHITECTURES)
        raise SpecError(f"{reader.source}: architecture {name!r} is not supported (supported: {supported})")
    return name


def _refuse_unsupported(reader: ConfigReader, architecture: str) -> None:
    """Options that would silently change the result if they were ignored."""
    gemma = architecture == "Gemma3ForCausalLM"
    key, wanted = ("hidden_activation", "gelu_pytorch_tanh") if gemma else ("hidden_act", "silu")
    activation = reader.get(key)
    if activation not in (None, wanted):
        raise SpecError(f"{reader.source}: {key} {activation!r} is not supported (supported: {wanted!r})")
    for key in UNSUPPORTED_OPTIONS:
        if reader.get(key):
            raise SpecError(f"{reader.source}: {key!r} is not supported; use a checkpoint without it")
    if architecture.startswith("Qwen") and reader.get("use_sliding_window"):
        raise SpecError(f"{reader.source}: 'use_sliding_window' is not supported; set it to false")


def _tie_embeddings(reader: ConfigReader, *, default: bool) -> bool:
    tied = reader.get("tie_word_embeddings")
    return default if tied is None else bool(tied)


def _dtype(reader: ConfigReader) -> str:
    """`dtype` (newer) or `torch_dtype` (older); float32 if neither is there, as the file format implies."""
    name = str(reader.get("dtype") or reader.get("torch_dtype") or "float32").removeprefix("torch.")
    if name not in DTYPE_BYTES:
        raise SpecError(
            f"{reader.source}: dtype {name!r} is not supported (supported: {sorted(DTYPE_BYTES)})"
        )
    return name


def _eos_ids(config: Mapping[str, object]) -> tuple[TokenId, ...]:
    value = config.get("eos_token_id")
    values = cast("list[object]", value) if isinstance(value, list) else [value]
    return tuple(item for item in values if isinstance(item, int))
