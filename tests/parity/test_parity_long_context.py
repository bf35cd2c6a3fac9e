"""A prompt of 32 thousand tokens, with every stretching of rotary embedding, agrees with transformers.

One narrow layer: what is tested is positions, not depth. Queries and keys are sharp, so that attention
depends on where a token stands and not only on how many there are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from diptych.adapters.native import NativeOptions, build_native_engine
from diptych.domain.request import Logprob
from support.engine_driver import GREEDY, EngineDriver
from support.tiny_models import save_random_model

PROMPT_TOKENS = 32_768
CHUNK_TOKENS = 8192
DECODED = 3
TOLERANCE = 1e-4
SIZES: dict[str, Any] = {
    "num_hidden_layers": 1,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "initializer_range": 0.5,
    "eos_token_id": None,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 9000}
LINEAR = {"rope_type": "linear", "factor": 8.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def last_logprobs(model_dir: Path, prompt: list[int]) -> tuple[list[int], list[Logprob]]:
    """What the engine decodes after the prompt, with the log-probabilities of the whole vocabulary."""
    block_tokens = 128
    blocks = -(-(PROMPT_TOKENS + DECODED) // block_tokens)
    options = NativeOptions(dtype="float32", numerics="fast", block_tokens=block_tokens)
    engine = build_native_engine(model_dir, options, total_blocks=blocks)
    driver = EngineDriver(engine, most_tokens=PROMPT_TOKENS + DECODED)
    track = driver.track("long", prompt, msgspec.structs.replace(GREEDY, logprobs=160))
    entries: list[Logprob] = []
    while len(track.output) < DECODED:
        found = driver.step((track, CHUNK_TOKENS)).sampled.get(track.request_id)
        if found is not None and found.logprob is not None:
            entries.append(found.logprob)
    return track.output, entries


def reference(model: Any, tokens: list[int]) -> torch.Tensor:
    """Log-probabilities behind the last tokens."""
    with torch.no_grad():
        logits = model(torch.tensor([tokens]), logits_to_keep=DECODED).logits[0]
    return logits.double().log_softmax(-1)


def as_tensor(entry: Logprob) -> torch.Tensor:
    return torch.tensor([value for _, value in sorted(entry.top)], dtype=torch.float64)


@pytest.mark.parametrize(
    ("family", "parameters", "max_positions"),
    [("Qwen3", YARN, 9000), ("Llama", LINEAR, 40_000), ("Llama", LLAMA3, 40_000)],
    ids=["yarn", "linear", "llama3"],
)
def test_a_prompt_of_32_thousand_tokens(
    family: str, parameters: dict[str, Any], max_positions: int, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(3)
    prompt = torch.randint(0, 160, (PROMPT_TOKENS,), generator=generator).tolist()
    settings = {**SIZES, "max_position_embeddings": max_positions}
    settings["rope_parameters"] = {**parameters, "rope_theta": 1e6}
    model = save_random_model(tmp_path, family, **settings)
    model.set_attn_implementation("sdpa")  # eager would hold every score at once
    output, entries = last_logprobs(tmp_path, prompt)
    wanted_RV = reference(model, prompt + output[:-1])
    assert output == wanted_RV.argmax(-1).tolist()
    for entry, wanted_V in zip(entries, wanted_RV, strict=True):
        assert torch.allclose(as_tensor(entry), wanted_V, rtol=0, atol=TOLERANCE)
    model.model.rotary_emb.inv_freq.mul_(1.001)
    slightly_off_RV = reference(model, prompt + output[:-1])
    assert float((slightly_off_RV - wanted_RV).abs().max()) > 100 * TOLERANCE, "frequencies do not show"
