"""Sizes of OPT and BLOOM: ungated feed-forward, biases everywhere, LayerNorm, tied embeddings.

Knows: their spelling. Does not know: any later family.
"""

from __future__ import annotations

from diptych.domain.errors import SpecError
from diptych.performance.config_reader import ConfigReader
from diptych.performance.model_attention import grouped_attention
from diptych.performance.model_mlp import dense
from diptych.performance.model_sizes import ModelSizes

OPT_POSITION_OFFSET = 2
"""Rows of OPT's position table before position 0 (metaseq's padding index)."""


def opt_sizes(config: ConfigReader, name: str, source: str) -> ModelSizes:
    """OPT (arXiv 2205.01068): learned positions, which are looked up."""
    hidden, layers = config.integer("hidden_size"), config.integer("num_hidden_layers")
    if config.integer("word_embed_proj_dim", hidden) != hidden:
        raise SpecError(f"{source}: 'word_embed_proj_dim' other than 'hidden_size' is not supported")
    mlp = dense(config, layers, width_key="ffn_dim", matrices=2, bias=True)
    positions = (config.integer("max_position_embeddings") + OPT_POSITION_OFFSET) * hidden
    return _tied(config, name, source, "OPTForCausalLM", layers, mlp.others + positions, positions)


def bloom_sizes(config: ConfigReader, name: str, source: str) -> ModelSizes:
    """BLOOM (arXiv 2211.05100): ALiBi, LayerNorm on the embeddings, feed-forward four times the width."""
    heads = config.integer("num_attention_heads", config.count("n_head") or None)
    layers = config.integer("num_hidden_layers", config.count("n_layer") or None)
    hidden = config.integer("hidden_size", config.count("n_embed") or None)
    plain = ConfigReader(
        {
            "hidden_size": hidden,
            "num_attention_heads": heads,
            "ffn_dim": 4 * hidden,
            "vocab_size": config.get("vocab_size"),
        },
        source,
    )
    mlp = dense(plain, layers, width_key="ffn_dim", matrices=2, bias=True)
    return _tied(plain, name, source, "BloomForCausalLM", layers, mlp.others + 2 * hidden, 0)


def _tied(
    config: ConfigReader, name: str, source: str, architecture: str, layers: int, mlp: int, positions: int
) -> ModelSizes:
    attention = grouped_attention(config, bias=(True, True), qk_norm="none")
    hidden, vocab = config.integer("hidden_size"), config.integer("vocab_size")
    norms = (2 * layers + 1) * 2 * hidden
    return ModelSizes(
        name=name,
        architecture=architecture,
        source=source,
        layers=layers,
        full_layers=layers,
        hidden=hidden,
        heads=attention.heads,
        head_dim=attention.head_dim,
        decode_head_dim=attention.decode_head_dim,
        kv_heads=attention.kv_heads,
        kv_elements=attention.kv_elements,
        parameters=layers * attention.parameters + mlp + norms + vocab * hidden,
        embedding_parameters=positions,
        head_parameters=vocab * hidden,
        vocab=vocab,
        max_positions=config.count("max_position_embeddings"),
    )
