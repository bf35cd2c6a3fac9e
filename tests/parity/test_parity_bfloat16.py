"""bfloat16 with fast numerics: the best token agrees wherever the reference is sure.

The reference is transformers in float32 over the same weights (rounded to bfloat16, as ours are). Along a
fixed text, every log-probability is within `TOLERANCE`, and where the reference's two best tokens are further
apart than twice that, ours picks the same one: whole, in chunks, and beside another sequence.

For a mixture of experts this is asked where every token goes to all of them. Where it goes to some, a router
that is nearly tied may pick another one, and the score moves by more: there most positions agree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from diptych.adapters.native import NativeOptions, build_native_engine
from diptych.adapters.protocol import EngineAdapter
from diptych.domain.request import Logprob
from support.engine_driver import GREEDY, EngineDriver, Track
from support.needs_cuda import DEVICES
from support.tiny_models import TINY_EXPERTS, save_random_model

TOLERANCE = 0.2
"""Natural logarithm; stated in docs/numerics.md."""
TEXT_TOKENS = 120
VOCABULARY = 160
ALL_EXPERTS = {**TINY_EXPERTS, "num_experts_per_tok": TINY_EXPERTS["num_experts"]}
FAMILIES = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {},
    "Mistral": {},
    "Gemma3": {},
    "Mixtral": ALL_EXPERTS,
    "Qwen3Moe": ALL_EXPERTS,
}
"""With what makes a tiny model of each."""
OPTIONS = NativeOptions(dtype="bfloat16", numerics="fast", block_tokens=8)
SCORED = msgspec.structs.replace(GREEDY, prompt_logprobs=1)


def text(seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (TEXT_TOKENS,), generator=generator).tolist()


def scores(engine: EngineAdapter, chunk: int, beside: bool) -> list[Logprob]:
    """Log-probabilities of the whole text, computed in chunks, alone or beside a second sequence."""
    driver = EngineDriver(engine, most_tokens=160)
    track = driver.track("scored", text(0), SCORED)
    other = driver.track("other", text(1)[:40])
    driver.prefill(other, chunk=40)
    entries: list[Logprob] = []
    while track.computed < TEXT_TOKENS:
        pieces: list[tuple[Track, int]] = [(track, chunk), *([(other, 1)] if beside else [])]
        entries += driver.step(*pieces).prompt_logprobs.get(track.request_id, ())
    return entries


def expected_scores(model: Any) -> Tensor:
    """Log-probabilities of every token at each position, in float32 over weights rounded to bfloat16."""
    with torch.no_grad():
        reference = model.bfloat16().float()
        return reference(torch.tensor([text(0)])).logits[0].double().log_softmax(-1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_best_token_agrees_where_the_reference_is_sure(family: str, device: str, tmp_path: Path) -> None:
    expected_LV = expected_scores(save_random_model(tmp_path, family, **FAMILIES[family]))
    sure_positions = 0
    for chunk, beside in ((TEXT_TOKENS, False), (23, False), (17, True)):
        options = msgspec.structs.replace(OPTIONS, device=device)
        engine = build_native_engine(tmp_path, options, total_blocks=128)
        for position, entry in enumerate(scores(engine, chunk, beside)):
            expected_V = expected_LV[position]
            assert abs(entry.logprob - expected_V[entry.token_id].item()) < TOLERANCE
            (best, second), (best_id, _) = (values.tolist() for values in expected_V.topk(2))
            if best - second > 2 * TOLERANCE:
                sure_positions += 1
                assert entry.top[0][0] == best_id
    assert sure_positions > TEXT_TOKENS, "too few positions to say anything"


@pytest.mark.parametrize("family", ["Mixtral", "Qwen3Moe"])
def test_most_scores_agree_where_routers_choose(family: str, tmp_path: Path) -> None:
    expected_LV = expected_scores(save_random_model(tmp_path, family, **TINY_EXPERTS))
    entries = scores(build_native_engine(tmp_path, OPTIONS, total_blocks=128), chunk=23, beside=True)
    within = [
        abs(entry.logprob - expected_LV[position, entry.token_id].item()) < TOLERANCE
        for position, entry in enumerate(entries)
    ]
    assert sum(within) >= 0.9 * len(within)
