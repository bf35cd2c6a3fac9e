"""Sizes of models: the table of KV per token, published parameter counts, FLOPs and bytes by hand."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.domain.errors import SpecError
from diptych.performance.model_config import SUPPORTED, parse_model_sizes
from diptych.performance.model_shape import parse_model_shape
from diptych.performance.model_sizes import ModelSizes
from diptych.planning.library import load_model, load_model_library
from support.shared_data import data_file
from support.tiny_models import TINY, TINY_EXPERTS

LIBRARY = load_model_library()

KV_KIB_PER_TOKEN = {
    "llama-3.1-8b": 128,
    "llama-3.1-70b": 320,
    "llama-3.1-405b": 504,
    "qwen3-8b": 144,
    "qwen3-32b": 256,
    "qwen3-30b-a3b": 96,
    "qwen3-235b-a22b": 188,
    "mixtral-8x7b": 128,
    "minimax-m2.5": 248,
    "opt-13b": 800,
    "opt-66b": 2304,
    "deepseek-v3": 68.625,
    "kimi-k2.5": 68.625,
    "glm-5": 87.75,
    "gpt-oss-120b": 36,
    "gpt-oss-20b": 24,
    "qwen3.5-397b-a17b": 30,
}
"""KiB in bf16 that grow with every token, from the model's equations."""


def sizes(name: str) -> ModelSizes:
    return load_model(name)


@pytest.mark.parametrize(("name", "kib"), KV_KIB_PER_TOKEN.items())
def test_kv_per_token(name: str, kib: float) -> None:
    assert sizes(name).kv_bytes_per_token("bf16") == kib * 1024
    assert sizes(name).kv_bytes_per_token("fp8") == kib * 512


@pytest.mark.parametrize("name", LIBRARY.names)
def test_published_parameter_counts(name: str) -> None:
    file = LIBRARY.file(name)
    assert file is not None
    model = file.sizes
    assert model.parameters == pytest.approx(file.published.parameters_b * 1e9, rel=0.02)
    assert model.source == file.source and model.confidence == file.confidence
    if file.published.active_b is not None and name not in ROUNDED_ACTIVE:
        counts = (model.active_parameters, model.active_parameters - model.embedding_parameters)
        assert min(abs(count / (file.published.active_b * 1e9) - 1) for count in counts) < 0.04


ROUNDED_ACTIVE = {"qwen3-next-80b-a3b", "minimax-m2.5"}
"""Publishers count active parameters with or without embeddings and round; these two lie further off the
rounded figures (3 and 10 billion; here 3.6 and 10.4 without input embeddings)."""


@pytest.mark.parametrize(
    "name",
    [
        "deepseek_v3.2",
        "deepseek_v3",
        "qwen3-235B-A22B",
        "qwen3-30B-A3B",
        "qwen3-8B",
        "qwen3-next-80B-A3B",
        "qwen3.5-122B-A10B",
        "qwen3.5-35B-A3B",
    ],
)
def test_whole_configs_agree_with_the_library(name: str) -> None:
    whole = load_model(str(data_file(f"validation/infersim/hf_configs/{name}_config.json")))
    known = sizes(name.replace("_", "-"))
    assert whole.architecture == known.architecture
    for field in msgspec.structs.fields(ModelSizes):
        if field.name not in ("name", "source", "confidence", "max_positions"):
            assert getattr(whole, field.name) == getattr(known, field.name), field.name


def test_windowed_layers_stop_growing() -> None:
    """gpt-oss-120b: 36 layers, 8 heads of 64, bf16; 18 of them keep 128 tokens."""
    model, layer = sizes("gpt-oss-120b"), 2 * 8 * 64 * 2
    assert model.kv_bytes_per_token_formal("bf16") == 72 * 1024
    assert model.kv_constant_bytes("bf16") == 18 * 128 * layer
    assert model.kv_bytes(100, "bf16") == 100 * 36 * layer
    assert model.kv_bytes(1000, "bf16") == 1000 * 18 * layer + 128 * 18 * layer
    gemma = sizes("gemma-3-27b")
    assert (gemma.full_layers, gemma.window_layers, gemma.window_tokens) == (10, 52, 1024)
    assert sizes("mistral-7b").kv_bytes(10_000, "bf16") == sizes("mistral-7b").kv_bytes(4096, "bf16")


def test_linear_layers_hold_a_constant_state() -> None:
    """Qwen3-Next: 36 layers of 32 value heads, 128 x 128 each in float32, and 3 steps of convolution in bf16
    over 2 x 2,048 key and 4,096 value channels."""
    model = sizes("qwen3-next-80b-a3b")
    assert model.full_layers == 12 and model.linear_layers == 36
    assert model.state_bytes == 36 * (32 * 128 * 128 * 4 + 3 * 8192 * 2)
    assert model.kv_bytes(1, "bf16") - model.kv_bytes_per_token("bf16") == model.state_bytes
    assert model.kv_bytes(0, "bf16") == 0


def test_the_state_follows_its_own_type() -> None:
    """Half of the state in bf16; the tail of the convolution stays."""
    file = LIBRARY.file("qwen3-next-80b-a3b")
    assert file is not None
    narrow = parse_model_sizes({**file.config, "mamba_ssm_dtype": "bfloat16"}, "narrow")
    assert file.sizes.state_bytes - narrow.state_bytes == 36 * 32 * 128 * 128 * 2
    with pytest.raises(SpecError, match="'mamba_ssm_dtype' 'int8' is not one of"):
        parse_model_sizes({**file.config, "mamba_ssm_dtype": "int8"}, "narrow")


def test_opt_66b_of_512_tokens_is_1_point_13_gib() -> None:
    assert sizes("opt-66b").kv_bytes(512, "bf16") / 2**30 == pytest.approx(1.125, abs=0.006)


def test_flops_by_hand() -> None:
    """Llama-3.1-8B: 32 layers of 4,096 wide attention; 8.030 B parameters, 0.525 B of them in each table."""
    model = sizes("llama-3.1-8b")
    body = 8_030_261_248 - 2 * 128_256 * 4096
    assert model.linear_parameters == body
    attention = 4 * 32 * 4096 * (1000 * 200 + 1000**2 / 2)
    assert model.prefill_flops(1000, 200) == 2 * body * 1000 + 2 * 128_256 * 4096 + attention
    assert model.decode_flops(5000) == 2 * (body + 128_256 * 4096) + 4 * 32 * 4096 * 5000
    assert model.prefill_flops(1000, 200) - model.prefill_flops(1000, 200, last=False) == 2 * 128_256 * 4096


def test_latent_attention_by_hand() -> None:
    """DeepSeek-V3: 128 heads; keys 192 and values 128 wide in prefill, 576 and 512 in decode."""
    model = sizes("deepseek-v3")
    assert (model.head_dim, model.decode_head_dim, model.kv_heads) == (160, 544, 1)
    grown = model.decode_flops(2000) - model.decode_flops(1000)
    assert grown == 2 * 61 * 128 * (576 + 512) * 1000


def test_sparse_attention_keeps_its_top() -> None:
    """DeepSeek-V3.2 attends to 2,048 tokens and scores all of them with 64 heads of 128."""
    dense, sparse = sizes("deepseek-v3"), sizes("deepseek-v3.2")
    assert sparse.kv_bytes_per_token("bf16") == dense.kv_bytes_per_token("bf16")
    assert sparse.index_bytes_per_token == 61 * 132
    grown = sparse.decode_flops(60_000) - sparse.decode_flops(50_000)
    assert grown == 2 * 61 * 64 * 128 * 10_000


def test_experts_and_their_coverage() -> None:
    model = sizes("qwen3-30b-a3b")
    assert model.expert_parameters == 48 * 128 * 3 * 2048 * 768
    assert model.active_expert_parameters * 16 == model.expert_parameters
    assert model.expert_coverage(1) == pytest.approx(8 / 128)
    assert model.expert_coverage(32) == pytest.approx(1 - (1 - 1 / 16) ** 32)
    weights = model.weight_bytes("fp8")
    assert weights.experts == model.expert_parameters and weights.total == model.parameters
    assert model.step_weight_bytes("fp8", 1) == weights.others + weights.experts / 16
    assert sizes("llama-3.1-70b").expert_coverage(7) == 0
    assert sizes("llama-3.1-70b").weight_bytes("fp4").total == 0.5625 * sizes("llama-3.1-70b").parameters


models = st.sampled_from(LIBRARY.names).map(sizes)
tokens = st.integers(0, 200_000)


@given(models, tokens, tokens)
def test_kv_never_shrinks_and_never_exceeds_its_formal_growth(model: ModelSizes, a: int, b: int) -> None:
    low, high = sorted((a, b))
    grown = model.kv_bytes(high, "bf16") - model.kv_bytes(low, "bf16")
    state = model.state_bytes if high and not low else 0
    assert 0 <= grown <= (high - low) * model.kv_bytes_per_token_formal("bf16") + state


@given(models, tokens, tokens, tokens)
def test_a_prompt_costs_the_same_in_chunks(model: ModelSizes, cached: int, first: int, second: int) -> None:
    whole = model.prefill_flops(first + second, cached)
    chunks = model.prefill_flops(first, cached, last=False) + model.prefill_flops(second, cached + first)
    assert chunks == pytest.approx(whole)


@given(models, st.integers(0, 4096), st.integers(0, 4096))
def test_coverage_is_a_share_that_rises(model: ModelSizes, a: int, b: int) -> None:
    low, high = sorted((a, b))
    assert 0 <= model.expert_coverage(low) <= model.expert_coverage(high) <= 1


@pytest.mark.parametrize(
    ("architecture", "more"),
    [
        ("LlamaForCausalLM", {}),
        ("MixtralForCausalLM", TINY_EXPERTS),
        ("Qwen3MoeForCausalLM", {**TINY_EXPERTS, "mlp_only_layers": [1]}),
    ],
)
def test_the_built_in_engine_counts_the_same_parameters(architecture: str, more: dict[str, Any]) -> None:
    config = {"architectures": [architecture], **TINY, **more}
    assert parse_model_sizes(config, "t").parameters == parse_model_shape(config, "t").parameters
    assert load_model("builtin").parameters > 0


# ---------------------------------------------------------------- names and errors


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("meta-llama/Meta-Llama-3.1-70B", "llama-3.1-70b"),
        ("deepseek-ai/DeepSeek-R1", "deepseek-v3"),
        ("zhipuai/GLM-5", "glm-5"),
        ("nvidia/Qwen3-32B-NVFP4", "qwen3-32b"),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507-FP8", "qwen3-235b-a22b"),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "qwen3-coder-30b-a3b"),
        ("google/gemma-3-27b-it", "gemma-3-27b"),
        ("openai/gpt-oss-120b", "gpt-oss-120b"),
        ("bigscience/bloom", "bloom-176b"),
    ],
)
def test_names_of_checkpoints(name: str, known: str) -> None:
    assert load_model(name).name == known


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"unknown model 'llama-4-70b': did you mean llama-3.1-70b"):
        load_model("llama-4-70b")


def test_a_directory_or_a_file(tmp_path: Any) -> None:
    config = {"architectures": ["LlamaForCausalLM"], **TINY}
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    assert load_model(str(folder)) == load_model(str(folder / "config.json"))
    assert load_model(str(folder)).parameters == parse_model_sizes(config, "t").parameters
    (folder / "config.json").write_text("{")
    with pytest.raises(SpecError, match="not JSON"):
        load_model(str(folder))
    with pytest.raises(SpecError, match="cannot read the model"):
        load_model(str(tmp_path))


def parse(architecture: str = "LlamaForCausalLM", **overrides: Any) -> ModelSizes:
    config = {"architectures": [architecture], **TINY, **overrides}
    return parse_model_sizes({k: v for k, v in config.items() if v is not None}, "config.json")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"architecture": "GPT2LMHeadModel"}, "'GPT2LMHeadModel', which is not known .*LlamaForCausalLM"),
        ({"hidden_size": None}, "config.json lacks the key 'hidden_size'"),
        ({"vocab_size": "many"}, "'vocab_size' must be a number"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers' must be positive"),
        ({"num_key_value_heads": 3}, "cannot share 3 kv heads"),
        ({"layer_types": ["full_attention"]}, "'layer_types' has 1 entries for 2 layers"),
        ({"layer_types": ["mamba", "mamba"]}, "layer type 'mamba' is not known"),
        ({"num_experts": 8}, "the key 'num_experts' may change sizes"),
        (
            {"architecture": "MixtralForCausalLM", "num_local_experts": 2, "num_experts_per_tok": 4},
            "'num_experts_per_tok' 4 of 2",
        ),
    ],
)
def test_errors_name_the_key(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(**overrides)


def test_unknown_weight_and_kv_types() -> None:
    with pytest.raises(SpecError, match="weight precision 'int3' is not one of bf16, fp8, fp4"):
        sizes("llama-3.1-8b").weight_bytes("int3")
    with pytest.raises(SpecError, match="KV dtype 'fp4' is not one of bf16, fp8"):
        sizes("llama-3.1-8b").kv_bytes(1, "fp4")


def test_the_library_covers_every_supported_kind_of_attention() -> None:
    assert {sizes(name).architecture for name in LIBRARY.names} <= set(SUPPORTED)
