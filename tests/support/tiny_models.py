"""Model directories small enough for tests: configs for dummy weights, random transformers checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TINY: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "eos_token_id": 1,
}
"""The sizes that the tiny models share."""

TINY_EXPERTS: dict[str, Any] = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 48}
"""What tiny mixtures have besides; Mixtral's experts are as wide as `intermediate_size`."""

OWN: dict[str, dict[str, Any]] = {
    "Gemma3": {
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": 24,
        "layer_types": ["sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 24,
    }
}
"""What a family needs beside the shared sizes to differ from the others in so few layers and positions."""


def write_config(model_dir: Path, architecture: str = "LlamaForCausalLM", **overrides: Any) -> Path:
    """A directory with nothing but a config.json (None in ``overrides`` removes a key)."""
    own = OWN.get(architecture.removesuffix("ForCausalLM"), {})
    config = {"architectures": [architecture], "dtype": "float32", **TINY, **own, **overrides}
    model_dir.mkdir(parents=True, exist_ok=True)
    kept = {key: value for key, value in config.items() if value is not None}
    (model_dir / "config.json").write_text(json.dumps(kept))
    return model_dir


def save_random_model(model_dir: Path, family: str, *, max_shard: str = "1GB", **overrides: Any) -> Any:
    """A random float32 transformers model of ``family`` ('Llama', 'Qwen2' …), saved, and the model itself."""
    import torch
    import transformers

    torch.manual_seed(0)
    settings = {**TINY, **OWN.get(family, {}), "initializer_range": 0.2, **overrides}
    architecture = getattr(transformers, f"{family}ForCausalLM")
    config = architecture.config_class(**settings, attn_implementation="eager")
    model = architecture(config).float().eval()
    for name, parameter in model.named_parameters():  # else norms are one and biases zero: no test at all
        if "norm" in name or name.endswith("bias"):
            parameter.data.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(model_dir, max_shard_size=max_shard)
    return model
