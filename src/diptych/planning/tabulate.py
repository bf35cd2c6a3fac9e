"""Any cost model as a measured profile: numbers that travel to another process.

Knows: `StepModel`, `ProfileSpec`. Does not know: chips, processes.
"""

from __future__ import annotations

import itertools

from diptych.domain.cluster import PoolSpec
from diptych.domain.fleet import DecodeFit, PrefillFit, ProfileSpec
from diptych.performance.steps import Chunk, StepModel

PROMPTS = (256, 4_096, 32_768)
"""Prompt lengths through which the quadratic in new tokens goes exactly."""

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Batches between which decode steps are taken for straight lines."""


def tabulate(model: StepModel, pool: PoolSpec) -> ProfileSpec:
    """The pool's own profile if it has one; else a profile fitted through points of ``model``.

    Exact for prompts of `PROMPTS` tokens and for batches of `BATCHES` at contexts where the first line of
    the model
    is the highest; between them it is an interpolation.
    """
    if pool.profile is not None:
        return pool.profile
    return ProfileSpec(
        prefill=_prefill(model),
        decode=tuple(_decode(model, low, high) for low, high in itertools.pairwise(BATCHES)),
        kv_tokens=model.kv_tokens,
    )


def _prefill(model: StepModel) -> PrefillFit:
    """Newton's divided differences through three lengths."""
    (x0, x1, x2) = PROMPTS
    y0, y1, y2 = (model.step_s([Chunk(tokens, 0)], 0, 0) for tokens in PROMPTS)
    d01, d12 = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    square = (d12 - d01) / (x2 - x0)
    linear = d01 - square * (x0 + x1)
    return PrefillFit(fixed_s=y0 - linear * x0 - square * x0 * x0, per_token_s=linear, per_token2_s=square)


def _decode(model: StepModel, low: int, high: int) -> DecodeFit:
    at_low, at_high = (max(model.decode_lines(batch), key=lambda line: line.fixed_s) for batch in (low, high))
    per_sequence_s = (at_high.fixed_s - at_low.fixed_s) / (high - low)
    return DecodeFit(
        fixed_s=at_low.fixed_s - per_sequence_s * low,
        per_sequence_s=per_sequence_s,
        per_context_token_s=at_low.per_context_token_s,
        from_batch=0 if low == 1 else low,
    )
