"""The trained network as a Hugging Face model directory.

Knows the files of such a directory. Weights are stored in bfloat16 and are to be run in float32.
"""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from training.tales import tokenizer as words
from training.tales.chat import END, PAD
from training.tales.model import Llama, Shape


def config(shape: Shape, end: int, pad: int) -> dict:
    """The settings that say how the weights are to be read."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab,
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head,
        "hidden_act": "silu",
        "max_position_embeddings": shape.longest,
        "rms_norm_eps": shape.eps,
        "rope_theta": shape.theta,
        "rope_scaling": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "initializer_range": 0.03,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": pad,
        "dtype": "float32",
        "torch_dtype": "float32",
    }


def generation(end: int, pad: int) -> dict:
    """How to draw tokens when nobody says otherwise."""
    return {"eos_token_id": end, "pad_token_id": pad, "do_sample": True, "temperature": 0.7, "top_p": 0.9}


def write(model: Llama, tokenizer: Tokenizer, folder: Path) -> None:
    """The whole directory; the weights are replaced in one step so that a reader never sees half of them."""
    folder.mkdir(parents=True, exist_ok=True)
    end, pad = tokenizer.token_to_id(END), tokenizer.token_to_id(PAD)
    words.write(tokenizer, folder, model.shape.longest)
    _write_json(folder / "config.json", config(model.shape, end, pad))
    _write_json(folder / "generation_config.json", generation(end, pad))
    tensors = {name: value.to(torch.bfloat16).contiguous() for name, value in model.weights().items()}
    fresh = folder / "model.safetensors.new"
    save_file(tensors, fresh, metadata={"format": "pt"})
    fresh.chmod(0o644)
    os.replace(fresh, folder / "model.safetensors")


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
