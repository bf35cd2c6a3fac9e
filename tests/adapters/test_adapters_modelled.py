"""The modelled engine: a step takes what the cost model says, and its tokens end nothing by themselves."""

from __future__ import annotations

import pytest

from diptych.adapters.modelled import ModelledAdapter, ModelledEngine, modelled_layout, steps_for
from diptych.domain.errors import SpecError
from diptych.domain.fleet import DecodeFit, PrefillFit, ProfileSpec
from diptych.domain.ids import RequestId
from diptych.domain.request import SamplingParams
from diptych.domain.step import NewSequence, Slice, StepPlan
from diptych.performance.steps import FittedSteps

A, B = RequestId("a"), RequestId("b")
PROFILE = ProfileSpec(
    prefill=PrefillFit(fixed_s=1.0, per_token_s=0.1, per_token2_s=0.01),
    decode=(DecodeFit(fixed_s=2.0, per_context_token_s=0.001, per_sequence_s=0.5),),
    kv_tokens=1024,
)
GREEDY = SamplingParams(max_tokens=9, seed=3, temperature=0.0, stop_token_ids=tuple(range(5)), logprobs=2)


def _adapter() -> tuple[ModelledAdapter, list[float]]:
    slept: list[float] = []
    return ModelledAdapter(FittedSteps(PROFILE), modelled_layout(4), 8, slept.append), slept


def _new(name: RequestId, tokens: int, prompt: int) -> NewSequence:
    return NewSequence(request_id=name, token_ids=(6,) * tokens, prompt_tokens=prompt, sampling=GREEDY)


def test_a_step_takes_what_its_slices_cost() -> None:
    adapter, slept = _adapter()
    chunk = Slice(request_id=A, token_ids=(6,) * 10, start=20, block_table=(), sample=False)
    decode = Slice(request_id=B, token_ids=(6,), start=100, block_table=(), sample=True)
    plan = StepPlan(step=0, slices=(decode, chunk), new=(_new(A, 40, 40), _new(B, 101, 99)))
    result = adapter.execute(plan)
    decode_s = 2.0 + 0.001 * 100 + 0.5
    chunk_s = 0.1 * 10 + 0.01 * (10 * 10 + 2 * 10 * 20)
    assert slept == [pytest.approx(decode_s + chunk_s)]
    assert set(result.sampled) == {B}
    assert result.sampled[B].token_id not in GREEDY.stop_token_ids
    logprob = result.sampled[B].logprob
    assert logprob is not None and len(logprob.top) == 2


def test_a_prompt_of_one_token_is_a_prompt() -> None:
    adapter, slept = _adapter()
    only = Slice(request_id=A, token_ids=(6,), start=0, block_table=(), sample=True)
    adapter.execute(StepPlan(step=0, slices=(only,), new=(_new(A, 1, 1),)))
    assert slept == [pytest.approx(1.0 + 0.1 + 0.01)]


def test_tokens_depend_on_seed_and_position_alone() -> None:
    first, second = _adapter()[0], _adapter()[0]
    alone = Slice(request_id=A, token_ids=(6,), start=10, block_table=(), sample=True)
    other = Slice(request_id=B, token_ids=(6,) * 3, start=0, block_table=(), sample=False)
    one = first.execute(StepPlan(step=0, slices=(alone,), new=(_new(A, 11, 8),)))
    both = StepPlan(step=4, slices=(other, alone), new=(_new(A, 11, 8), _new(B, 9, 9)))
    assert one.sampled[A] == second.execute(both).sampled[A]


def test_a_broken_profile_is_refused() -> None:
    with pytest.raises(SpecError, match="kv_tokens"):
        steps_for(ModelledEngine(profile='{"prefill": {}, "decode": [{}]}', vocab_size=8))
