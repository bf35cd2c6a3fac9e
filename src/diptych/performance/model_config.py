"""`ModelSizes` from a parsed Hugging Face `config.json`.

Knows: how each family of models spells its sizes, and what it has beside the usual. Does not know: files (it
is handed a parsed dictionary), FLOPs and bytes (`model_sizes` does).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from diptych.domain.errors import SpecError
from diptych.performance.config_reader import ConfigReader
from diptych.performance.model_attention import (
    Attention,
    LinearAttention,
    grouped_attention,
    index_layers,
    latent_attention,
    layer_kinds,
    linear_attention,
)
from diptych.performance.model_mlp import FeedForward, dense, mixture
from diptych.performance.model_old import bloom_sizes, opt_sizes
from diptych.performance.model_sizes import ModelSizes


@dataclass(frozen=True, slots=True)
class _Family:
    """What the config does not say because the architecture's name does."""

    attention: Literal["grouped", "latent"] = "grouped"
    layers: str = "full"
    """Pattern of `layer_kinds`."""
    qk_norm: str = "none"
    qkv_bias: bool = False
    bias: bool = False
    """Default of `attention_bias`."""
    experts: bool = False
    expert_width: str = "moe_intermediate_size"
    expert_bias: bool = False
    norms: int = 2
    tied: bool = False
    """Default of `tie_word_embeddings`."""
    sinks: bool = False
    output_gate: bool = False


_DEEPSEEK = _Family(attention="latent", experts=True)
_GEMMA = _Family(layers="gemma", qk_norm="head", norms=4, tied=True)
_QWEN35 = _Family(layers="hybrid", qk_norm="head", output_gate=True)
_QWEN35_MOE = _Family(layers="hybrid", qk_norm="head", output_gate=True, experts=True)

FAMILIES: Mapping[str, _Family] = {
    "LlamaForCausalLM": _Family(),
    "MistralForCausalLM": _Family(layers="window"),
    "MixtralForCausalLM": _Family(layers="window", experts=True, expert_width="intermediate_size"),
    "Qwen2ForCausalLM": _Family(layers="qwen", qkv_bias=True),
    "Qwen3ForCausalLM": _Family(layers="qwen", qk_norm="head"),
    "Qwen3MoeForCausalLM": _Family(layers="qwen", qk_norm="head", experts=True),
    "Qwen3NextForCausalLM": _QWEN35_MOE,
    "Qwen3_5ForCausalLM": _QWEN35,
    "Qwen3_5ForConditionalGeneration": _QWEN35,
    "Qwen3_5MoeForCausalLM": _QWEN35_MOE,
    "Qwen3_5MoeForConditionalGeneration": _QWEN35_MOE,
    "DeepseekV3ForCausalLM": _DEEPSEEK,
    "DeepseekV32ForCausalLM": _DEEPSEEK,
    "KimiK2ForCausalLM": _DEEPSEEK,
    "KimiK25ForConditionalGeneration": _DEEPSEEK,
    "GlmMoeDsaForCausalLM": _DEEPSEEK,
    "MiniMaxM2ForCausalLM": _Family(qk_norm="all", experts=True, expert_width="intermediate_size"),
    "GptOssForCausalLM": _Family(
        layers="alternate",
        bias=True,
        sinks=True,
        experts=True,
        expert_width="intermediate_size",
        expert_bias=True,
    ),
    "Gemma3ForCausalLM": _GEMMA,
    "Gemma3ForConditionalGeneration": _GEMMA,
}
"""Architecture (`architectures[0]`) -> family. OPT and BLOOM, which spell everything else, are apart."""

SUPPORTED = (*FAMILIES, "OPTForCausalLM", "BloomForCausalLM")
"""Architectures whose sizes are understood."""

_SIZE_WORDS = re.compile(r"layer|expert|head|rank|lora|window|state|moe|index|interval|_dim|attn")
"""A key with such a word may change a size."""

_NO_SIZE = (
    "max_window_layers",  # counts only where use_sliding_window is on, and is read there
    "num_nextn_predict_layers",  # speculation: not part of the model that answers
    "mtp_num_hidden_layers",
    "mtp_transformer_layers",
    "num_mtp_modules",
    "attn_type_list",  # MiniMax-M2: all layers attend to everything
    "qk_head_dim",  # nope and rope heads together
    "sliding_window",  # switched off in Qwen's configs
    "full_attention_interval",  # said once more by layer_types
    "_sliding_window_pattern",
    "sliding_window_pattern",
    "moe_intermediate_size",
    "query_pre_attn_scalar",
    "image_token_index",
    "mm_tokens_per_image",
)
"""Keys with such a word that change none of the sizes used here, with the reason where it is not plain."""


def parse_model_sizes(config: Mapping[str, object], name: str, source: str = "") -> ModelSizes:
    """Sizes of the model ``name`` from its parsed `config.json`; ``source`` is kept and named in errors.

    Raises:
        SpecError: an unknown architecture, a missing or ill-typed key, or a key that may change a size and is
            not understood.
    """
    where = source or name
    outer = ConfigReader(config, where)
    architecture = _architecture(outer)
    inner = outer.section("text_config") or outer
    if architecture == "OPTForCausalLM":
        return opt_sizes(inner, name, where)
    if architecture == "BloomForCausalLM":
        return bloom_sizes(inner, name, where)
    family = FAMILIES[architecture]
    sizes = _sizes(inner, outer, family, name, architecture, where)
    _refuse_unread(inner)
    return sizes


def _sizes(
    config: ConfigReader, outer: ConfigReader, family: _Family, name: str, architecture: str, source: str
) -> ModelSizes:
    layers, hidden = config.integer("num_hidden_layers"), config.integer("hidden_size")
    vocab = config.integer("vocab_size")
    kinds = layer_kinds(config, layers, family.layers)
    attention = _attention(config, family)
    linear = linear_attention(config) if kinds.linear else LinearAttention(0, 0, 0)
    mlp = _feed_forward(config, family, layers)
    tied = config.get("tie_word_embeddings")
    tied = outer.get("tie_word_embeddings") if tied is None else tied
    is_tied = family.tied if tied is None else bool(tied)
    indexed = index_layers(config, kinds.full) if attention.index_topk else 0
    body = indexed * attention.index_parameters
    body += (layers - kinds.linear) * attention.parameters + kinds.linear * linear.parameters
    body += mlp.others + mlp.routed + layers * family.norms * hidden + hidden
    table = vocab * hidden
    return ModelSizes(
        name=name,
        architecture=architecture,
        source=source,
        layers=layers,
        full_layers=kinds.full,
        window_layers=kinds.window,
        window_tokens=kinds.window_tokens,
        linear_layers=kinds.linear,
        hidden=hidden,
        heads=attention.heads,
        head_dim=attention.head_dim,
        decode_head_dim=attention.decode_head_dim,
        kv_heads=attention.kv_heads,
        kv_elements=attention.kv_elements,
        latent_kv=attention.latent_kv,
        state_bytes_per_layer=linear.state_bytes,
        state_elements_per_layer=linear.state_elements,
        index_topk=attention.index_topk,
        index_layers=indexed,
        index_width=attention.index_width,
        index_key_dim=attention.index_key_dim,
        experts=mlp.experts,
        experts_per_token=mlp.experts_per_token,
        expert_layers=mlp.expert_layers,
        parameters=body + table * (1 if is_tied else 2),
        expert_parameters=mlp.routed,
        embedding_parameters=0 if is_tied else table,
        head_parameters=table,
        vocab=vocab,
        max_positions=config.count("max_position_embeddings"),
    )


def _architecture(reader: ConfigReader) -> str:
    names = reader.texts("architectures")
    if not names:
        raise SpecError(f"{reader.source} lacks the key 'architectures'")
    if names[0] not in SUPPORTED:
        known = ", ".join(SUPPORTED)
        raise SpecError(
            f"{reader.source}: 'architectures' names {names[0]!r}, which is not known (known: {known}). "
            "If one of them has the same sizes, put its name there"
        )
    return names[0]


def _attention(config: ConfigReader, family: _Family) -> Attention:
    if family.attention == "latent":
        return latent_attention(config)
    bias = config.get("attention_bias")
    both = family.bias if bias is None else bool(bias)
    gate = config.get("attn_output_gate")
    return grouped_attention(
        config,
        bias=(both or family.qkv_bias, both),
        qk_norm=family.qk_norm,
        output_gate=family.output_gate if gate is None else bool(gate),
        sinks=family.sinks,
    )


def _feed_forward(config: ConfigReader, family: _Family, layers: int) -> FeedForward:
    if not family.experts:
        bias = bool(config.get("mlp_bias"))
        return dense(config, layers, width_key="intermediate_size", matrices=3, bias=bias)
    return mixture(config, layers, width_key=family.expert_width, bias=family.expert_bias)


def _refuse_unread(config: ConfigReader) -> None:
    """A key that may change a size must not be passed over in silence."""
    for key in config.unread():
        value = config.get(key)
        sized = isinstance(value, list | Mapping) or (isinstance(value, int) and not isinstance(value, bool))
        if value and sized and _SIZE_WORDS.search(key) and key not in _NO_SIZE:
            raise SpecError(
                f"{config.source}: the key {key!r} may change sizes and is not understood; remove it if it "
                "does not, or give the pool a measured profile"
            )
