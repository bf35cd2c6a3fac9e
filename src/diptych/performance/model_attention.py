"""What attention needs per layer: read from a config, counted in parameters and in elements of KV or state.

Knows: grouped heads, latent (MLA) and sparse attention, gated delta rule layers, which layer is of
which kind. Does not know: experts, embeddings, bytes of weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from diptych.domain.errors import SpecError
from diptych.domain.kv import DTYPE_BYTES
from diptych.performance.config_reader import ConfigReader

BF16_BYTES = 2

_FULL = ("full_attention", "indexed_attention", "deepseek_sparse_attention", "attention")
_WINDOWED = ("sliding_attention", "sliding_window")
_LINEAR = ("linear_attention",)
"""Words of `layer_types`. Sparse attention is full attention with a limit on what it keeps."""


@dataclass(frozen=True, slots=True)
class Attention:
    """One layer with KV."""

    heads: int
    kv_heads: int
    head_dim: float
    decode_head_dim: float
    kv_elements: int
    parameters: int
    latent_kv: bool = False
    index_topk: int = 0
    index_width: int = 0
    index_key_dim: int = 0
    index_parameters: int = 0
    """Of one layer that scores tokens itself, beside ``parameters``."""


@dataclass(frozen=True, slots=True)
class LinearAttention:
    """One layer with a constant state."""

    parameters: int
    state_elements: int
    state_bytes: int


@dataclass(frozen=True, slots=True)
class LayerKinds:
    """How many layers see everything, a window, or a state."""

    full: int
    window: int
    linear: int
    window_tokens: int


def grouped_attention(
    config: ConfigReader,
    *,
    bias: tuple[bool, bool],
    qk_norm: str,
    output_gate: bool = False,
    sinks: bool = False,
) -> Attention:
    """Heads that share keys and values in groups. ``bias``: of q, k, v and of the output;
    ``qk_norm``: 'none', per 'head', or over 'all' heads."""
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", heads)
    dim = config.integer("head_dim", max(1, hidden // heads))
    if heads % kv_heads:
        raise SpecError(f"{config.source}: {heads} query heads cannot share {kv_heads} kv heads evenly")
    query, kv = heads * dim, kv_heads * dim
    norms = {"none": 0, "head": 2 * dim, "all": query + kv}[qk_norm]
    projections = hidden * (query * (2 if output_gate else 1) + 2 * kv) + query * hidden
    biases = (query + 2 * kv if bias[0] else 0) + (hidden if bias[1] else 0)
    return Attention(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=dim,
        decode_head_dim=dim,
        kv_elements=2 * kv,
        parameters=projections + biases + norms + (heads if sinks else 0),
    )


def latent_attention(config: ConfigReader) -> Attention:
    """MLA: one latent vector per token holds keys and values of all heads (arXiv 2405.04434)."""
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    config.get("num_key_value_heads")  # equal to the heads; the cache does not follow it
    config.get("head_dim")
    rank, rope = config.integer("kv_lora_rank"), config.integer("qk_rope_head_dim")
    nope, value = config.integer("qk_nope_head_dim"), config.integer("v_head_dim")
    key = nope + rope
    query_rank = config.count("q_lora_rank")
    query = (hidden + heads * key + 1) * query_rank if query_rank else hidden * heads * key
    latent = hidden * (rank + rope) + rank + rank * heads * (nope + value)
    index_topk = config.count("index_topk")
    index_heads, index_dim = config.count("index_n_heads"), config.count("index_head_dim")
    if index_topk and not (query_rank and index_heads and index_dim):
        raise SpecError(
            f"{config.source}: 'index_topk' needs 'index_n_heads', 'index_head_dim' and 'q_lora_rank'"
        )
    index = query_rank * index_heads * index_dim + hidden * (index_dim + index_heads) + 2 * index_dim
    return Attention(
        heads=heads,
        kv_heads=1,
        head_dim=(key + value) / 2,
        decode_head_dim=(rank + rope + rank) / 2,
        kv_elements=rank + rope,
        parameters=query + latent + heads * value * hidden,
        latent_kv=True,
        index_topk=index_topk,
        index_width=index_heads * index_dim if index_topk else 0,
        index_key_dim=index_dim if index_topk else 0,
        index_parameters=index if index_topk else 0,
    )


def index_layers(config: ConfigReader, layers: int) -> int:
    """Layers of sparse attention that score tokens themselves; the others reuse what the last one kept."""
    types = config.texts("indexer_types")
    if types:
        return sum(kind == "full" for kind in types)
    if config.count("index_topk_freq", 1) != 1 or config.get("index_topk_pattern"):
        raise SpecError(
            f"{config.source}: 'index_topk_freq' other than 1 is not supported; list 'indexer_types'"
        )
    return layers


def linear_attention(config: ConfigReader) -> LinearAttention:
    """Gated delta rule layers of Qwen3-Next and Qwen3.5: a state of key width by value width per value head.

    The state counts in `mamba_ssm_dtype`, or in float32 where the config does not say (an assumption; engines
    let the user choose), the tail of the short convolution in bf16.
    """
    hidden, kernel = config.integer("hidden_size"), config.integer("linear_conv_kernel_dim")
    keys = config.integer("linear_num_key_heads") * config.integer("linear_key_head_dim")
    value_heads, value_dim = config.integer("linear_num_value_heads"), config.integer("linear_value_head_dim")
    values = value_heads * value_dim
    mixed = 2 * keys + values
    inputs = hidden * (mixed + values + 2 * value_heads)
    small = kernel * mixed + 2 * value_heads + value_dim
    state = value_heads * config.integer("linear_key_head_dim") * value_dim
    dtype = str(config.get("mamba_ssm_dtype") or "float32")
    if dtype not in DTYPE_BYTES:
        known = ", ".join(DTYPE_BYTES)
        raise SpecError(f"{config.source}: 'mamba_ssm_dtype' {dtype!r} is not one of {known}")
    return LinearAttention(
        parameters=inputs + small + values * hidden,
        state_elements=state,
        state_bytes=state * DTYPE_BYTES[dtype] + (kernel - 1) * mixed * BF16_BYTES,
    )


def layer_kinds(config: ConfigReader, layers: int, pattern: str) -> LayerKinds:
    """Layers by kind: from `layer_types`, else by the family's own ``pattern``: 'full', 'window' (all),
    'alternate' (every second one full), 'gemma' (every n-th full), 'qwen' (from max_window_layers on),
    'hybrid' (every full_attention_interval-th full, the others linear)."""
    types = config.texts("layer_types")
    if types:
        return _listed(config, layers, types)
    window = config.count("sliding_window")
    match pattern:
        case "hybrid":
            full = layers // config.integer("full_attention_interval", 4)
            return LayerKinds(full, 0, layers - full, 0)
        case "window" if window:
            return LayerKinds(0, layers, 0, window)
        case "alternate" if window:
            return LayerKinds(layers // 2, layers - layers // 2, 0, window)
        case "gemma" if window:
            every = config.count("sliding_window_pattern") or config.integer("_sliding_window_pattern", 6)
            return LayerKinds(layers // every, layers - layers // every, 0, window)
        case "qwen" if window and config.get("use_sliding_window"):
            full = min(layers, config.count("max_window_layers", layers))
            return LayerKinds(full, layers - full, 0, window)
        case _:
            return LayerKinds(layers, 0, 0, 0)


def _listed(config: ConfigReader, layers: int, types: tuple[str, ...]) -> LayerKinds:
    if len(types) != layers:
        raise SpecError(f"{config.source}: 'layer_types' has {len(types)} entries for {layers} layers")
    unknown = [kind for kind in types if kind not in (*_FULL, *_WINDOWED, *_LINEAR)]
    if unknown:
        known = ", ".join((*_FULL, *_WINDOWED, *_LINEAR))
        raise SpecError(f"{config.source}: layer type {unknown[0]!r} is not known (known: {known})")
    window = sum(kind in _WINDOWED for kind in types)
    linear = sum(kind in _LINEAR for kind in types)
    tokens = config.integer("sliding_window") if window else 0
    return LayerKinds(layers - window - linear, window, linear, tokens)
