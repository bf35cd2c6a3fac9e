"""Shapes from config.json: both spellings of every key, defaults, and errors that say what to do."""

from __future__ import annotations

import json
from math import log
from pathlib import Path
from typing import Any

import msgspec
import pytest

from diptych.builtin import builtin_model_dir
from diptych.domain.errors import SpecError
from diptych.models.resolve import read_model_shape, resolve_model_dir
from diptych.performance.mixture_shape import MixtureShape
from diptych.performance.model_layers import LayerAttention
from diptych.performance.model_rope import LinearRope, Llama3Rope, Rope, YarnRope
from diptych.performance.model_shape import parse_model_shape
from support.tiny_models import TINY, TINY_EXPERTS, write_config


def parse(architecture: str = "LlamaForCausalLM", generation: dict[str, Any] | None = None, **overrides: Any):
    config = {"architectures": [architecture], **TINY, **overrides}
    return parse_model_shape({k: v for k, v in config.items() if v is not None}, "config.json", generation)


def test_sizes_and_parameter_count() -> None:
    shape = parse(tie_word_embeddings=True)
    layer = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 96 + 2 * 64
    assert shape.parameters == 2 * layer + 160 * 64 + 64
    assert parse("Qwen2ForCausalLM").parameters == 2 * (layer + 128) + 2 * 160 * 64 + 64
    assert parse("Qwen3ForCausalLM").parameters == 2 * (layer + 32) + 2 * 160 * 64 + 64
    assert shape.weight_bytes("bfloat16") == 2 * shape.parameters
    assert shape.kv_layout(16, "float32").token_bytes == 2 * 2 * 2 * 16 * 4


def test_flops() -> None:
    shape = parse(tie_word_embeddings=True)
    assert shape.linear_flops(10, 1) == 2 * (10 * shape.linear_params + 64 * 160)
    assert shape.attention_flops(3, 5) == 4 * 2 * 64 * (6 + 7 + 8)
    assert parse("MistralForCausalLM", sliding_window=4).attention_flops(3, 5) == 4 * 2 * 64 * 12


def mixture(architecture: str = "Qwen3MoeForCausalLM", **overrides: Any):
    return parse(architecture, **{**TINY_EXPERTS, **overrides})


def test_experts() -> None:
    expected = MixtureShape(experts=8, experts_per_token=3, width=48, normalise=False)
    assert mixture().mixture == expected
    assert mixture(num_experts=None, num_local_experts=8).mixture == expected
    assert mixture(norm_topk_prob=True).mixture == msgspec.structs.replace(expected, normalise=True)
    assert mixture("MixtralForCausalLM").mixture == msgspec.structs.replace(
        expected, normalise=True, width=96
    )
    assert mixture("Qwen3ForCausalLM").mixture is None


def test_layers_without_experts() -> None:
    shape = mixture(num_hidden_layers=6, decoder_sparse_step=2, mlp_only_layers=[3, 9])
    assert shape.mixture is not None and shape.mixture.dense_layers == (0, 2, 3, 4)
    assert [shape.mixture_of(layer) is None for layer in range(6)] == [True, False, True, True, True, False]


def test_sizes_of_experts() -> None:
    shape, one = mixture(mlp_only_layers=[0]), 3 * 64 * 48
    dense = 2 * (64 * 64 * 2 + 64 * 32 * 2) + 3 * 64 * 96
    assert shape.linear_params == dense + 64 * 8 + 8 * one
    assert shape.linear_flops(10, 1) == 2 * (10 * (dense + 64 * 8 + 3 * one) + 64 * 160)
    assert shape.parameters == shape.linear_params + 2 * (2 * 64 + 2 * 16) + 2 * 160 * 64 + 64


def test_old_and_new_spellings() -> None:
    assert parse(torch_dtype="bfloat16").dtype == parse(dtype="bfloat16").dtype == "bfloat16"
    old = parse(rope_theta=5e5, rope_scaling={"type": "default"})
    assert old.attention == parse(rope_parameters={"rope_type": "default", "rope_theta": 5e5}).attention


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (LLAMA3, Llama3Rope(factor=32, low_freq_factor=1, high_freq_factor=4, original_max_positions=8192)),
        ({"type": "linear", "factor": 8}, LinearRope(factor=8)),
        (YARN, YarnRope(factor=4, original_max_positions=512, attention_factor=0.1 * log(4) + 1)),
        (
            {**YARN, "beta_fast": 16, "beta_slow": 2, "attention_factor": 0.5, "truncate": False},
            YarnRope(
                factor=4,
                original_max_positions=512,
                beta_fast=16,
                beta_slow=2,
                attention_factor=0.5,
                truncate=False,
            ),
        ),
        (
            {**YARN, "mscale": 0.5, "mscale_all_dim": 1.0},
            YarnRope(
                factor=4,
                original_max_positions=512,
                attention_factor=(0.05 * log(4) + 1) / (0.1 * log(4) + 1),
            ),
        ),
    ],
)
def test_rope_scaling_in_both_spellings(section: dict[str, Any], expected: Any) -> None:
    wanted = (Rope(5e5, expected),) * 2
    assert tuple(it.rope for it in parse(rope_theta=5e5, rope_scaling=section).attention) == wanted
    new = {**section, "rope_theta": 5e5}
    assert tuple(it.rope for it in parse(rope_parameters=new).attention) == wanted
    both = {"rope_type": "default", "rope_theta": 5e5}
    assert tuple(it.rope for it in parse(rope_parameters=both, rope_scaling=section).attention) == wanted


def test_yarn_alone_lengthens_the_context() -> None:
    """The other types come with the stretched number of positions."""
    assert parse(rope_scaling=YARN).max_positions == 2048
    assert parse(rope_scaling={**YARN, "original_max_position_embeddings": None}).max_positions == 2048
    assert parse(rope_scaling=YARN, original_max_position_embeddings=256).max_positions == 1024
    assert parse(rope_scaling=YARN, max_position_embeddings=4096).max_positions == 4096
    assert parse(rope_scaling=LLAMA3).max_positions == 512
    assert parse(rope_scaling={"rope_type": "linear", "factor": 8.0}).max_positions == 512


def test_defaults_follow_from_other_sizes() -> None:
    shape = parse(head_dim=None, num_key_value_heads=None)
    assert (shape.head_dim, shape.kv_heads) == (16, 4)


def test_eos_ids_of_the_generation_config_win() -> None:
    assert parse().eos_token_ids == (1,)
    assert parse(eos_token_id=[4, 5]).eos_token_ids == (4, 5)
    assert parse(generation={"eos_token_id": [7, 8]}).eos_token_ids == (7, 8)
    assert parse(generation={}).eos_token_ids == (1,)
    assert parse(eos_token_id=None).eos_token_ids == ()


def test_float16_is_computed_in_float32() -> None:
    assert parse(dtype="float16").compute_dtype("auto") == "float32"
    assert parse(dtype="bfloat16").compute_dtype("auto") == "bfloat16"
    assert parse(dtype="bfloat16").compute_dtype("float32") == "float32"


def test_sliding_window_is_mistrals_and_mixtrals() -> None:
    assert [it.window for it in parse("MistralForCausalLM", sliding_window=9).attention] == [9, 9]
    assert [it.window for it in mixture("MixtralForCausalLM", sliding_window=9).attention] == [9, 9]
    assert [it.window for it in parse("Qwen2ForCausalLM", sliding_window=9).attention] == [None, None]
    with pytest.raises(SpecError, match="use_sliding_window"):
        parse("Qwen2ForCausalLM", use_sliding_window=True)


def gemma(**overrides: Any):
    return parse("Gemma3ForCausalLM", **{"sliding_window": 24, "rope_local_base_freq": 2e4, **overrides})


GLOBAL, LOCAL = LayerAttention(Rope(1e6)), LayerAttention(Rope(2e4), 24)
NESTED = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 3e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
}


def test_layers_of_gemma_3_alternate() -> None:
    assert gemma(layer_types=["full_attention", "sliding_attention"]).attention == (GLOBAL, LOCAL)
    assert gemma(num_hidden_layers=7).attention == (LOCAL,) * 5 + (GLOBAL, LOCAL)
    assert gemma(num_hidden_layers=4, sliding_window_pattern=2).attention == (LOCAL, GLOBAL) * 2
    no_window = gemma(layer_types=["full_attention"] * 2, sliding_window=None)
    assert no_window.attention == (GLOBAL, GLOBAL)


def test_rotary_embedding_of_gemma_3_in_both_spellings() -> None:
    types = ["sliding_attention", "full_attention"]
    expected = (LOCAL, LayerAttention(Rope(3e6, LinearRope(factor=8))))
    scaling = {"rope_type": "linear", "factor": 8.0}
    assert gemma(layer_types=types, rope_theta=3e6, rope_scaling=scaling).attention == expected
    new = gemma(layer_types=types, rope_local_base_freq=None, rope_parameters=NESTED)
    assert new.attention == expected
    assert new.max_positions == 512
    default = gemma(layer_types=types, rope_local_base_freq=None)
    assert [it.rope for it in default.attention] == [Rope(1e4), Rope(1e6)]


def test_sizes_of_gemma_3() -> None:
    shape = gemma()
    layer = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 96 + 4 * 64 + 32
    assert shape.parameters == 2 * layer + 160 * 64 + 64, "embeddings are tied where nothing is said"
    assert not gemma(tie_word_embeddings=False).tie_embeddings
    assert gemma(head_dim=None).head_dim == 256
    assert (shape.query_pre_attn_scalar, gemma(query_pre_attn_scalar=168).query_pre_attn_scalar) == (256, 168)
    types = ["sliding_attention", "full_attention"]
    assert gemma(sliding_window=4, layer_types=types).attention_flops(3, 5) == 4 * 64 * (12 + 6 + 7 + 8)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"sliding_window": None}, r"lacks the key 'sliding_window'"),
        ({"layer_types": ["full_attention"]}, r"'layer_types' has 1 entries for 2 layers"),
        (
            {"layer_types": ["full_attention", "mamba"]},
            r"layer type 'mamba' is not supported \(supported: full",
        ),
        ({"layer_types": 3}, r"'layer_types' must be a list of names, not 3"),
        ({"sliding_window_pattern": 0}, r"'sliding_window_pattern' must be positive"),
        ({"rope_parameters": {"rope_theta": 1e6}}, r"\(rope_parameters\) lacks the key 'sliding_attention'"),
        ({"rope_local_base_freq": 0}, r"'rope_local_base_freq' must be greater than 1"),
        ({"query_pre_attn_scalar": "x"}, r"'query_pre_attn_scalar' must be a number"),
        ({"hidden_activation": "gelu"}, r"hidden_activation 'gelu' is not .* 'gelu_pytorch_tanh'"),
        ({"final_logit_softcapping": 30.0}, r"'final_logit_softcapping' is not supported"),
        ({"use_bidirectional_attention": True}, r"'use_bidirectional_attention' is not supported"),
    ],
)
def test_wrong_configs_of_gemma_3_are_named(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        gemma(**overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"hidden_size": None}, r"config.json lacks the key 'hidden_size'"),
        ({"rms_norm_eps": None}, r"lacks the key 'rms_norm_eps'"),
        ({"num_hidden_layers": "two"}, r"'num_hidden_layers' must be a number, not 'two'"),
        ({"vocab_size": 10.5}, r"'vocab_size' must be a whole number"),
        ({"hidden_act": "gelu"}, r"hidden_act 'gelu' is not supported"),
        ({"attention_bias": True}, r"'attention_bias' is not supported"),
        ({"quantization_config": {"bits": 4}}, r"'quantization_config' is not supported"),
        (
            {"rope_scaling": {"rope_type": "longrope"}},
            r"'longrope' is not supported \(supported: default, linear, llama3, yarn\); use a checkpoint",
        ),
        ({"rope_scaling": {"rope_type": "yarn"}}, r"\(rope_scaling\) lacks the key 'factor'"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0.5}}, r"'factor' must be at least 1, not 0.5"),
        ({"rope_scaling": {**YARN, "beta_fast": 1, "beta_slow": 2}}, r"must not be below 'beta_slow' 2"),
        ({"rope_scaling": {**YARN, "beta_slow": -1}}, r"'beta_slow' must be positive, not -1"),
        ({"rope_parameters": {**YARN, "attention_factor": 0}}, r"'attention_factor' must be positive"),
        ({"rope_parameters": {**YARN, "partial_rotary_factor": 0.5}}, r"'partial_rotary_factor' is not"),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": 4}}, r"must be above 'low_freq_factor' 4"),
        ({"rope_theta": 1}, r"'rope_theta' must be greater than 1, not 1"),
        ({"rope_scaling": {"rope_type": "llama3"}}, r"\(rope_scaling\) lacks the key 'factor'"),
        ({"rope_scaling": 3}, r"'rope_scaling' must be an object"),
        ({"dtype": "int8"}, r"dtype 'int8' is not supported"),
        ({"num_key_value_heads": 3}, r"4 query heads cannot share 3 kv heads evenly"),
        ({"head_dim": 15}, r"head_dim 15 is odd"),
        ({"num_hidden_layers": 0}, r"must be positive"),
        ({"architectures": None}, r"lacks the key 'architectures'"),
    ],
)
def test_wrong_configs_are_named(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(**overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"num_experts": None}, r"config.json lacks the key 'num_experts'"),
        ({"num_experts_per_tok": None}, r"config.json lacks the key 'num_experts_per_tok'"),
        ({"moe_intermediate_size": None}, r"config.json lacks the key 'moe_intermediate_size'"),
        ({"num_experts_per_tok": 9}, r"9 of 8 experts is impossible; it must be at most 'num_experts'"),
        ({"num_experts_per_tok": 0}, r"'num_experts_per_tok' must be positive"),
        ({"num_experts": 0}, r"'num_experts' must be positive"),
        ({"norm_topk_prob": "yes"}, r"'norm_topk_prob' must be true or false, not 'yes'"),
        ({"decoder_sparse_step": 0}, r"'decoder_sparse_step' must be positive"),
        ({"mlp_only_layers": ["one"]}, r"'mlp_only_layers' must be a list of whole numbers"),
        ({"mlp_only_layers": 3}, r"'mlp_only_layers' must be a list of whole numbers, not 3"),
        ({"use_sliding_window": True}, r"'use_sliding_window' is not supported; set it to false"),
    ],
)
def test_wrong_mixtures_are_named(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        mixture(**overrides)


def test_rotary_base_of_a_config_that_does_not_say() -> None:
    assert [it.rope for it in mixture().attention] == [Rope(10_000)] * 2
    assert [it.rope for it in mixture("MixtralForCausalLM").attention] == [Rope(1_000_000)] * 2
    nested = {"rope_type": "linear", "factor": 2}
    stretched = mixture("MixtralForCausalLM", rope_parameters=nested).attention
    assert [it.rope for it in stretched] == [Rope(1_000_000, LinearRope(factor=2))] * 2


def test_unknown_architecture_names_the_supported_ones() -> None:
    with pytest.raises(
        SpecError, match=r"'GPT2LMHeadModel' is not supported \(supported: Gemma3ForCausalLM, Llama.*Qwen3"
    ):
        parse("GPT2LMHeadModel")


def test_resolving_directories_and_the_built_in_model(tmp_path: Path) -> None:
    assert resolve_model_dir("builtin") == builtin_model_dir()
    assert resolve_model_dir(str(tmp_path)) == tmp_path
    with pytest.raises(SpecError, match=r"'\./nowhere' does not exist"):
        resolve_model_dir("./nowhere")


def test_a_hub_name_offline_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(SpecError, match=r"'nobody/nothing' is no directory .*give a local directory"):
        resolve_model_dir("nobody/nothing")
    with pytest.raises(SpecError, match="neither a directory nor a valid hub name"):
        resolve_model_dir("bad--name..")


def test_reading_a_directory(tmp_path: Path) -> None:
    write_config(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 3]}))
    assert read_model_shape(tmp_path).eos_token_ids == (2, 3)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SpecError, match="not valid JSON"):
        read_model_shape(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(SpecError, match="must hold a JSON object"):
        read_model_shape(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(SpecError, match=r"config.json is missing"):
        read_model_shape(tmp_path)
