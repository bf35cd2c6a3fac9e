"""Frequencies of every rope type are those of transformers, to the bit where the angle shows it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from diptych.models.rotary import frequencies, rotary_table
from diptych.performance.model_shape import parse_model_shape
from support.tiny_models import TINY

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
TYPES: list[dict[str, Any]] = [
    {"rope_type": "linear", "factor": 8.0},
    YARN,
    {**YARN, "beta_fast": 16.0, "beta_slow": 4.0, "truncate": False},
    {**YARN, "factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 1.0, "mscale_all_dim": 0.7},
    {**YARN, "attention_factor": 1.25},
    {**YARN, "original_max_position_embeddings": 8},
]


def named(parameters: dict[str, Any]) -> str:
    return "-".join(str(value) for value in parameters.values())


@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize("parameters", TYPES, ids=named)
def test_frequencies_and_attention_factor_are_those_of_transformers(
    parameters: dict[str, Any], head_dim: int
) -> None:
    import transformers
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    settings = {**TINY, "head_dim": head_dim, "rope_parameters": {**parameters, "rope_theta": 1e6}}
    config = transformers.Qwen3Config(**settings)
    wanted_E, attention_factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, torch.device("cpu"))
    shape = parse_model_shape({"architectures": ["Qwen3ForCausalLM"], **settings}, "config.json")
    rope = shape.attention[0].rope
    assert torch.equal(frequencies(rope, head_dim), wanted_E)
    cos_PE, sin_PE = rotary_table(rope, head_dim, 9, dtype=torch.float32, device=torch.device("cpu"))
    angle_PE = torch.outer(torch.arange(9.0), wanted_E)
    assert torch.equal(cos_PE, angle_PE.cos() * attention_factor)
    assert torch.equal(sin_PE, angle_PE.sin() * attention_factor)
