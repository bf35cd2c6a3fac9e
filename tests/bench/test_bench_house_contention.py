"""What workers of one host cost each other is found in steps of a load."""

from __future__ import annotations

import random

import pytest

from diptych.bench.house.contention import LEAST_STEPS, contention, with_contention
from diptych.bench.house.steps import Step
from diptych.domain.cluster import ClusterSpec, PoolSpec
from diptych.domain.fleet import DecodeFit, PrefillFit, ProfileSpec
from diptych.domain.ids import WorkerId
from diptych.domain.worker import Role
from diptych.performance.steps import Chunk, FittedSteps

PROFILE = ProfileSpec(
    prefill=PrefillFit(fixed_s=0.01, per_token_s=2e-4),
    decode=(DecodeFit(fixed_s=0.005, per_context_token_s=1e-6),),
    kv_tokens=10_000,
)
MODEL = FittedSteps(PROFILE)
CONTEXT_TOKENS = 500


def prompts(seed: int, worker: str = "p") -> list[Step]:
    """Ten seconds of them, with rests."""
    rng = random.Random(seed)
    steps, now_s = [], 0.0
    while now_s < 10:
        now_s += rng.uniform(0.02, 0.2)
        tokens = rng.randint(64, 512)
        taken_s = 0.01 + 2e-4 * tokens
        now_s += taken_s
        steps.append(Step(WorkerId(worker), now_s, (Chunk(tokens, 0),), 0, taken_s, None))
    return steps


def decodes(beside: list[Step], factor: float, speed: float) -> list[Step]:
    """Ten seconds of them without a rest: ``factor`` times as long while a prompt is computed."""
    rng = random.Random(3)
    steps, now_s = [], 0.0
    while now_s < 10:
        batch = rng.randint(1, 6)
        taken_s = speed * (0.005 + 1e-6 * batch * CONTEXT_TOKENS)
        if any(it.began_s <= now_s < it.ended_s for it in beside):
            taken_s *= factor
        now_s += taken_s
        steps.append(Step(WorkerId("d"), now_s, (), batch, taken_s, taken_s))
    return steps


@pytest.mark.parametrize("factor", [1.0, 1.08, 1.5])
@pytest.mark.parametrize("speed", [0.8, 1.3])
def test_the_factor_is_found_whatever_the_speed_is(factor: float, speed: float) -> None:
    others = prompts(1)
    own = decodes(others, factor, speed)
    assert contention(own, others, MODEL, CONTEXT_TOKENS) == pytest.approx(factor, rel=0.04)


def test_slow_moments_with_more_company_are_not_its_doing() -> None:
    """Where the machine is slow, prompts take longer, so that more of the decodes are beside one."""
    steps: list[Step] = []
    for second in range(40):
        slow = 1.6 if second % 2 else 1.0
        busy_s = 0.7 if second % 2 else 0.1
        steps.append(Step(WorkerId("p"), second + busy_s, (Chunk(64, 0),), 0, busy_s, None))
        for i in range(100):
            taken_s = slow * 0.0055 * (1.1 if i < 100 * busy_s else 1.0)
            steps.append(Step(WorkerId("d"), second + (i + 0.9) / 100, (), 1, taken_s, taken_s))
    own = [step for step in steps if step.worker_id == "d"]
    others = [step for step in steps if step.worker_id == "p"]
    assert contention(own, others, MODEL, CONTEXT_TOKENS) == pytest.approx(1.1, rel=0.005)


def test_the_company_of_several_is_company_once() -> None:
    others = prompts(1, "p") + prompts(2, "q")
    own = decodes(others, 1.2, 1.0)
    assert contention(own, others, MODEL, CONTEXT_TOKENS) == pytest.approx(1.2, rel=0.04)


def test_company_makes_nobody_faster() -> None:
    others = prompts(1)
    assert contention(decodes(others, 0.9, 1.0), others, MODEL, CONTEXT_TOKENS) == 1.0


def test_a_worker_alone_and_a_few_steps_say_nothing() -> None:
    others = prompts(1)
    own = decodes(others, 1.5, 1.0)
    assert contention(own, [], MODEL, CONTEXT_TOKENS) == 1.0
    assert contention([], others, MODEL, CONTEXT_TOKENS) == 1.0
    assert contention(own[:LEAST_STEPS], others, MODEL, CONTEXT_TOKENS) == 1.0


def test_each_pool_of_a_spec_gets_the_factor_of_its_own_workers() -> None:
    alone = prompts(1)
    steps = [*alone, *decodes(alone, 1.3, 1.0)]
    pools = {WorkerId("p"): "prefill", WorkerId("d"): "decode"}
    spec = ClusterSpec(
        pools=(
            PoolSpec(name="prefill", role=Role.PREFILL, profile=PROFILE),
            PoolSpec(name="decode", role=Role.DECODE, profile=PROFILE),
        )
    )
    prefill, decode = with_contention(spec, steps, pools, CONTEXT_TOKENS).pools
    assert prefill.profile is not None and decode.profile is not None
    assert prefill.profile.contended_factor == 1.0
    assert decode.profile.contended_factor == pytest.approx(1.3, rel=0.04)
    assert decode.profile.model_copy(update={"contended_factor": 1.0}) == PROFILE
