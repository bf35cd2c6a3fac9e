"""How fast is the machine now, compared with when it was calibrated?

Knows: two kinds of steps on an otherwise idle cluster, and what a profile says of them. Does not know: the
load that is measured between two looks.
"""

from __future__ import annotations

import asyncio
from statistics import median
from typing import NamedTuple

from diptych.bench.house.ask import House
from diptych.bench.house.experiments import REST_S
from diptych.bench.house.steps import StepWatch
from diptych.domain.cluster import ClusterSpec
from diptych.domain.fleet import DecodeFit, PrefillFit, ProfileSpec
from diptych.domain.worker import Role
from diptych.performance.steps import Chunk, FittedSteps
from diptych.workload.record import Arrival

PROMPTS = 8
"""Single prompts of one look."""

BATCH, CONTEXT_TOKENS, OUTPUT_TOKENS = 4, 128, 64
"""The batch that decodes in one look."""


class Drift(NamedTuple):
    """Measured over profile: seconds of a step that prefills, of one that decodes."""

    prefill: float
    decode: float


async def look(house: House, watch: StepWatch, spec: ClusterSpec) -> Drift:
    """Measure anchor steps on the idle cluster; about a second. Every pool of ``spec`` has a profile."""
    watch.take()
    tokens = min(min(pool.token_budget for pool in spec.pools), house.cluster.max_model_tokens // 2)
    for _ in range(PROMPTS):
        await asyncio.sleep(REST_S)
        await house.together([Arrival(t_s=0, input_tokens=tokens, output_tokens=1)])
    output_tokens = min(OUTPUT_TOKENS, house.cluster.max_model_tokens // 4)
    context_tokens = min(CONTEXT_TOKENS, house.cluster.max_model_tokens // 4)
    arrival = Arrival(t_s=0, input_tokens=context_tokens, output_tokens=output_tokens)
    await house.together([arrival] * BATCH)
    steps = watch.take()
    prefill, decode = _steps(spec, Role.PREFILL), _steps(spec, Role.DECODE)
    prompt_s = prefill.step_s((Chunk(tokens, 0),), 0, 0)
    batch_s = decode.step_s((), BATCH, BATCH * (context_tokens + output_tokens // 2))
    prompts = [step.busy_s for step in steps if step.prefill_tokens == tokens and not step.decode_tokens]
    rounds = [
        step.gap_s
        for step in steps
        if step.decode_tokens == BATCH and not step.prefill_tokens and step.gap_s is not None
    ]
    return Drift(_ratio(prompts, prompt_s), _ratio(rounds, batch_s))


def drifted(spec: ClusterSpec, looks: tuple[Drift, ...]) -> ClusterSpec:
    """``spec`` on the machine as the looks found it, on average."""
    prefill = sum(it.prefill for it in looks) / len(looks)
    decode = sum(it.decode for it in looks) / len(looks)
    pools = tuple(
        pool
        if pool.profile is None
        else pool.model_copy(update={"profile": _scaled(pool.profile, prefill, decode)})
        for pool in spec.pools
    )
    return spec.model_copy(update={"pools": pools})


def _scaled(profile: ProfileSpec, prefill: float, decode: float) -> ProfileSpec:
    fit = profile.prefill
    return profile.model_copy(
        update={
            "prefill": PrefillFit(
                fixed_s=fit.fixed_s * prefill,
                per_token_s=fit.per_token_s * prefill,
                per_token2_s=fit.per_token2_s * prefill,
                by_tokens=_rows(fit.by_tokens, prefill),
            ),
            "decode": tuple(
                DecodeFit(
                    fixed_s=it.fixed_s * decode,
                    per_context_token_s=it.per_context_token_s * decode,
                    per_sequence_s=it.per_sequence_s * decode,
                    by_batch=_rows(it.by_batch, decode),
                    from_batch=it.from_batch,
                )
                for it in profile.decode
            ),
        }
    )


def _rows(rows: tuple[tuple[int, float], ...], factor: float) -> tuple[tuple[int, float], ...]:
    return tuple((key, seconds * factor) for key, seconds in rows)


def _steps(spec: ClusterSpec, role: Role) -> FittedSteps:
    for pool in spec.pools:
        if pool.profile is not None and pool.role in (role, Role.MIXED):
            return FittedSteps(pool.profile)
    raise ValueError(f"no {role.value} pool with a profile")


def _ratio(measured: list[float], expected_s: float) -> float:
    return median(measured) / expected_s if measured and expected_s > 0 else 1.0
