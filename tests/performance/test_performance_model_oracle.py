"""Parameter counts against an independent implementation: the same small configs, built without memory."""

from __future__ import annotations

from typing import Any

import pytest

from diptych.performance.model_config import parse_model_sizes

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

BASE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 160,
    "tie_word_embeddings": False,
}
MOE: dict[str, Any] = {
    **BASE,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 40,
}
HYBRID: dict[str, Any] = {
    **MOE,
    "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
MLA: dict[str, Any] = {
    **BASE,
    "num_key_value_heads": 4,
    "head_dim": None,
    "q_lora_rank": 40,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 24,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
DSA: dict[str, Any] = {**MLA, "index_topk": 16, "index_n_heads": 2, "index_head_dim": 16}
LOCAL: dict[str, Any] = {**BASE, "num_local_experts": 8, "num_experts_per_tok": 2}

CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", BASE),
    ("llama", {**BASE, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    ("mistral", {**BASE, "sliding_window": 8}),
    ("mixtral", LOCAL),
    ("qwen2", {**BASE, "head_dim": None}),
    ("qwen3", BASE),
    ("qwen3_moe", {key: value for key, value in MOE.items() if key != "shared_expert_intermediate_size"}),
    ("qwen3_next", HYBRID),
    ("qwen3_5_moe_text", HYBRID),
    ("deepseek_v3", MLA),
    ("deepseek_v32", DSA),
    ("glm_moe_dsa", DSA),
    ("minimax_m2", LOCAL),
    ("gpt_oss", LOCAL),
    ("gemma3_text", {**BASE, "tie_word_embeddings": True, "sliding_window": 8}),
    (
        "opt",
        {
            "hidden_size": 64,
            "ffn_dim": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "vocab_size": 160,
            "max_position_embeddings": 50,
            "word_embed_proj_dim": 64,
        },
    ),
    ("bloom", {"hidden_size": 64, "n_layer": 3, "n_head": 4, "vocab_size": 160}),
]


@pytest.mark.parametrize(("kind", "config"), CASES, ids=[f"{i}-{kind}" for i, (kind, _) in enumerate(CASES)])
def test_parameters(kind: str, config: dict[str, Any]) -> None:
    given = {key: value for key, value in config.items() if value is not None}
    full = transformers.AutoConfig.for_model(kind, **given)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(full)
    saved = {**full.to_dict(), "architectures": [type(model).__name__]}
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert parse_model_sizes(saved, kind).parameters == counted
