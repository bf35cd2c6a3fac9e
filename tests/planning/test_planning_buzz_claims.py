"""T12's ratios and the claims of section 12."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.domain.errors import SpecError
from diptych.performance.chip import Chip
from diptych.planning.closed import buzz, claims
from diptych.planning.library import load_catalogue

CATALOGUE = load_catalogue()


def test_ratios_come_out_as_printed() -> None:
    rows = buzz.evaluate()
    assert len(rows) == 18
    assert not [row for row in rows if row.passed is False]


def test_claims_come_out_as_printed() -> None:
    rows = claims.evaluate(CATALOGUE)
    assert not [row for row in rows if row.passed is False]
    (note,) = [row.note for row in rows if row.name == "B300 + SN50 = 10×"]
    assert "SN50: tdp_w" in note
    assert "fused execution" in note


@given(st.floats(0.01, 10), st.floats(0.01, 10))
def test_no_fixed_ratio_beats_the_best(fixed: float, best: float) -> None:
    assert buzz.share_of_best(fixed, best) <= 1 + 1e-12
    assert buzz.share_of_best(best, best) == pytest.approx(1)


def test_no_batch_keeps_an_impossible_limit() -> None:
    assert buzz.best_decode(buzz.LLAMA_70B, buzz.B200, 8192, 1024, 1e-4).rps_per_chip == 0


def test_a_gain_counts_all_chips() -> None:
    claims.refuse_partial_gain(8, 8)
    with pytest.raises(SpecError, match="counts 2 of 8 chips"):
        claims.refuse_partial_gain(2, 8)


def test_what_is_missing_is_named() -> None:
    bare = Chip(name="X", vendor="Y", unit="chip", role="both")
    assert claims.missing_inputs([bare])[0].startswith("X: bf16_flops")
