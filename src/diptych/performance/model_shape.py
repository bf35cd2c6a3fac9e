"""The shape of a decoder-only language model, read from its Hugging Face `config.json`.

Knows: which sizes matter, how configs spell them, and the FLOPs and bytes that follow from them. Does not
know: files (it is handed a parsed dictionary), tensors, hardware.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import msgspec

from diptych.domain.errors import SpecError
from diptych.domain.ids import TokenId
from diptych.domain.kv import DTYPE_BYTES, KVLayout
from diptych.performance.config_reader import ConfigReader
from diptych.performance.mixture_shape import MixtureShape, mixture_shape

SUPPORTED_ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
)
"""Architecture names (`architectures[0]` of config.json) that the built-in engine runs."""


class Llama3Rope(msgspec.Struct, frozen=True, kw_only=True):
    """Llama 3.1's stretching of low rotary frequencies (`rope_type: llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


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
    rope_theta: float
    rope_scaling: Llama3Rope | None = None
    rms_eps: float
    tie_embeddings: bool
    qkv_bias: bool
    qk_norm: bool
    sliding_window: int | None = None
    """A token sees this many positions, its own included; None: all before it."""
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
        norms = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
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
        seen = sum(min(p + 1, self.sliding_window or p + 1) for p in range(start, start + tokens))
        return 4 * self.layers * self.query_width * seen


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
    layers = reader.integer("num_hidden_layers")
    return ModelShape(
        architecture=architecture,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=reader.integer("num_key_value_heads", heads),
        head_dim=reader.integer("head_dim", hidden // heads),
        intermediate=reader.integer("intermediate_size"),
        mixture=mixture_shape(reader, architecture, layers),
        vocab=reader.integer("vocab_size"),
        rope_theta=_rope_theta(reader, architecture),
        rope_scaling=_rope_scaling(reader),
        rms_eps=reader.number("rms_norm_eps"),
        tie_embeddings=bool(reader.get("tie_word_embeddings") or False),
        qkv_bias=architecture == "Qwen2ForCausalLM",
        qk_norm=architecture in ("Qwen3ForCausalLM", "Qwen3MoeForCausalLM"),
        sliding_window=_sliding_window(reader, architecture),
        max_positions=reader.integer("max_position_embeddings"),
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
    activation = reader.get("hidden_act")
    if activation not in (None, "silu"):
        raise SpecError(f"{reader.source}: hidden_act {activation!r} is not supported (supported: 'silu')")
    for key in ("attention_bias", "mlp_bias", "quantization_config"):
        if reader.get(key):
            raise SpecError(f"{reader.source}: {key!r} is not supported; use a checkpoint without it")
    if architecture.startswith("Qwen") and reader.get("use_sliding_window"):
        raise SpecError(f"{reader.source}: 'use_sliding_window' is not supported; set it to false")


def _rope_theta(reader: ConfigReader, architecture: str) -> float:
    """`rope_theta`, at the top level (older configs) or inside `rope_parameters`."""
    default = 1_000_000.0 if architecture == "MixtralForCausalLM" else 10_000.0
    nested = reader.section("rope_parameters")
    if nested is not None and nested.get("rope_theta") is not None:
        return nested.number("rope_theta")
    return reader.number("rope_theta", default)


def _rope_scaling(reader: ConfigReader) -> Llama3Rope | None:
    section = reader.section("rope_parameters") or reader.section("rope_scaling")
    if section is None:
        return None
    kind = section.get("rope_type") or section.get("type") or "default"
    if kind == "default":
        return None
    if kind != "llama3":
        raise SpecError(f"{section.source}: rope_type {kind!r} is not supported (supported: default, llama3)")
    return Llama3Rope(
        factor=section.number("factor"),
        low_freq_factor=section.number("low_freq_factor"),
        high_freq_factor=section.number("high_freq_factor"),
        original_max_positions=section.integer("original_max_position_embeddings"),
    )


def _sliding_window(reader: ConfigReader, architecture: str) -> int | None:
    """Mistral's and Mixtral's; Qwen configs carry the key but switch it off elsewhere."""
    windowed = architecture in ("MistralForCausalLM", "MixtralForCausalLM")
    if not windowed or reader.get("sliding_window") is None:
        return None
    return reader.integer("sliding_window")


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
