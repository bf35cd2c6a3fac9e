"""The built-in engine computes what Hugging Face transformers computes.

Tiny random models of every family, saved by transformers and read by our loader: log-probabilities of a whole
prompt agree, and greedy decoding of mixed batches yields the same tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
import torch

from diptych.adapters.native import NativeOptions, build_native_engine
from diptych.adapters.protocol import EngineAdapter
from diptych.builtin import builtin_model_dir
from support.engine_driver import GREEDY, EngineDriver
from support.tiny_models import TINY_EXPERTS, save_random_model

Numerics = Literal["invariant", "fast"]

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR_ROPE = {"rope_type": "linear", "factor": 8.0}


@dataclass(frozen=True)
class Case:
    """One checkpoint."""

    family: str
    overrides: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.family, *self.overrides])


CASES = [
    Case("Llama"),
    Case("Llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3_ROPE}),
    Case("Llama", {"max_shard": "60KB", "num_key_value_heads": 4}),
    Case("Qwen2", {"tie_word_embeddings": True}),
    Case("Qwen2", {"hidden_size": 96, "head_dim": 24}),
    Case("Qwen3", {"head_dim": 32}),
    Case("Qwen3", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    Case("Mistral", {"sliding_window": 24}),
    Case("Mistral", {"sliding_window": None, "max_shard": "60KB", "tie_word_embeddings": True}),
    Case("Qwen3", {"rope_parameters": YARN_ROPE}),
    Case("Gemma3"),
    Case("Gemma3", {"layer_types": None, "num_hidden_layers": 6, "rope_scaling": LINEAR_ROPE}),
    Case("Gemma3", {"head_dim": 32, "query_pre_attn_scalar": 32, "tie_word_embeddings": False}),
    Case("Mixtral", {**TINY_EXPERTS, "max_shard": "60KB"}),
    Case("Mixtral", {**TINY_EXPERTS, "num_experts": 5, "sliding_window": 24, "tie_word_embeddings": True}),
    Case("Qwen3Moe", {**TINY_EXPERTS, "norm_topk_prob": True, "tie_word_embeddings": True}),
    Case("Qwen3Moe", {**TINY_EXPERTS, "norm_topk_prob": False, "mlp_only_layers": [0]}),
    Case("Qwen3Moe", {**TINY_EXPERTS, "norm_topk_prob": True, "decoder_sparse_step": 2}),
]


def engine_of(model_dir: Path, numerics: Numerics) -> EngineAdapter:
    options = NativeOptions(dtype="float32", numerics=numerics, block_tokens=8)
    return build_native_engine(model_dir, options, total_blocks=128)


def prompts(vocab: int) -> list[list[int]]:
    return [[(17 * i * i + 5 * i + n) % vocab for i in range(length)] for n, length in enumerate((5, 37, 70))]


def expected_greedy(model: Any, prompt: list[int], steps: int) -> list[int]:
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(steps):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


def check_prompt_logprobs(engine: EngineAdapter, model: Any, prompt: list[int]) -> None:
    driver = EngineDriver(engine)
    track = driver.track("logprobs", prompt, msgspec.structs.replace(GREEDY, prompt_logprobs=3))
    entries = [
        entry for _ in range(2) for entry in driver.step((track, 40)).prompt_logprobs[track.request_id]
    ]
    with torch.no_grad():
        expected_LV = model(torch.tensor([prompt])).logits[0].double().log_softmax(-1)
    assert [entry.token_id for entry in entries] == prompt[1:]
    for position, entry in enumerate(entries):
        assert entry.logprob == pytest.approx(
            expected_LV[position, entry.token_id].item(), abs=1e-4, rel=1e-4
        )
        best = expected_LV[position].topk(3).values.tolist()
        assert [value for _, value in entry.top] == pytest.approx(best, abs=1e-4, rel=1e-4)


def check_greedy(engine: EngineAdapter, model: Any, vocab: int) -> None:
    """Prompts in chunks beside each other's decoding: 20 tokens of each."""
    driver = EngineDriver(engine)
    short, middle, long = (driver.track(f"r{i}", prompt) for i, prompt in enumerate(prompts(vocab)))
    driver.prefill(short, chunk=5)
    while not middle.output:
        driver.step((short, 1), (middle, 16))
    while not long.output:
        driver.step((long, 23), (short, 1), (middle, 1))
    tracks = [middle, long, short]
    driver.decode(tracks, 19)
    for track, prompt in zip((short, middle, long), prompts(vocab), strict=True):
        assert track.output[:20] == expected_greedy(model, prompt, 20)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_family_agrees_with_transformers(case: Case, tmp_path: Path) -> None:
    model = save_random_model(tmp_path, case.family, **case.overrides)
    if "max_shard" in case.overrides:
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    for numerics in ("invariant", "fast"):
        check_prompt_logprobs(engine_of(tmp_path, numerics), model, prompts(160)[2])
        check_greedy(engine_of(tmp_path, numerics), model, 160)


@pytest.mark.parametrize("numerics", ["invariant", "fast"])
def test_builtin_model_agrees_with_transformers(numerics: Numerics) -> None:
    model_dir = builtin_model_dir()
    if not (model_dir / "model.safetensors").is_file():
        pytest.skip("the built-in model has not been trained yet")
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    vocab = model.config.vocab_size
    check_prompt_logprobs(engine_of(model_dir, numerics), model, prompts(vocab)[2])
    check_greedy(engine_of(model_dir, numerics), model, vocab)
