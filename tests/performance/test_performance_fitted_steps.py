"""A profile with a table of prompts says what one with coefficients says, where both describe one engine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.domain.fleet import DecodeFit, PrefillFit, ProfileSpec
from diptych.performance.steps import Chunk, FittedSteps

FIXED_S, TOKEN_S, TOKEN2_S = 0.004, 2e-4, 6e-8
DECODE = (DecodeFit(fixed_s=0.008, per_context_token_s=1e-7),)

COEFFICIENTS = FittedSteps(
    ProfileSpec(
        prefill=PrefillFit(fixed_s=FIXED_S, per_token_s=TOKEN_S, per_token2_s=TOKEN2_S),
        decode=DECODE,
        kv_tokens=1000,
    )
)
TABLE = FittedSteps(
    ProfileSpec(
        prefill=PrefillFit(
            by_tokens=tuple(
                (tokens, FIXED_S + TOKEN_S * tokens + TOKEN2_S * tokens**2) for tokens in range(1, 8193)
            ),
            per_token2_s=TOKEN2_S,
        ),
        decode=DECODE,
        kv_tokens=1000,
    )
)

chunks = st.lists(st.builds(Chunk, st.integers(1, 1024), st.integers(0, 4096)), min_size=1, max_size=8)


@given(chunks)
def test_any_step_of_prompts_takes_as_long_by_table_as_by_coefficients(step: list[Chunk]) -> None:
    assert TABLE.step_s(step, 0, 0) == pytest.approx(COEFFICIENTS.step_s(step, 0, 0))


def test_several_short_prompts_take_less_than_one_of_as_many_tokens() -> None:
    one = TABLE.step_s((Chunk(512, 0),), 0, 0)
    eight = TABLE.step_s((Chunk(64, 0),) * 8, 0, 0)
    assert eight == pytest.approx(one - TOKEN2_S * (512**2 - 8 * 64**2))


@given(chunks)
def test_no_step_takes_less_than_nothing(step: list[Chunk]) -> None:
    """A table that does not know of attention beside a square that does."""
    steps = FittedSteps(
        ProfileSpec(
            prefill=PrefillFit(by_tokens=((1, 0.001), (8192, 0.002)), per_token2_s=1e-4),
            decode=DECODE,
            kv_tokens=1000,
        )
    )
    assert steps.step_s(step, 0, 0) >= 0
