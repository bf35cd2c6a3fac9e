"""The definitions, on numbers that can be checked by eye."""

from __future__ import annotations

from typing import Any

import pytest

from diptych.bench.sample import Outcome, Sample


def sample(**given: Any) -> Sample:
    plain: dict[str, Any] = {
        "index": 0,
        "input_tokens": 10,
        "output_tokens": 4,
        "due_s": 1.0,
        "sent_s": 1.25,
        "chunk_s": [2.0, 2.5, 4.0],
        "chunk_tokens": [1, 1, 2],
        "end_s": 5.0,
        "outcome": Outcome.COMPLETED,
        "usage_output_tokens": 4,
    }
    return Sample(**{**plain, **given})


def test_times_count_from_the_due_moment() -> None:
    one = sample()
    assert (one.lag_s, one.ttft_s, one.e2e_s) == (0.25, 1.0, 3.0)
    assert one.tpot_s == pytest.approx(2 / 3)
    assert one.gaps_s == [0.5, 0.75, 0.75]


def test_one_token_has_no_tpot() -> None:
    one = sample(chunk_s=[2.0], chunk_tokens=[1], usage_output_tokens=1)
    assert (one.tpot_s, one.gaps_s) == (None, [])
    assert one.meets(1.0, 0.001)


def test_tokens_in_a_window() -> None:
    assert sample().tokens_where(lambda at_s: 2.25 <= at_s <= 4) == 3
    assert sample(chunk_tokens=None).tokens_where(lambda at_s: at_s > 2.25) == pytest.approx(4 * 2 / 3)
    assert sample(usage_output_tokens=None).tokens_where(lambda at_s: True) == 0


@pytest.mark.parametrize(
    ("ttft_s", "tpot_s", "met"),
    [(1.0, None, True), (0.99, None, False), (None, 0.7, True), (None, 0.6, False), (1.0, 0.7, True)],
)
def test_all_targets_must_be_met(ttft_s: float | None, tpot_s: float | None, met: bool) -> None:
    assert sample().meets(ttft_s, tpot_s) is met


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.REJECTED, Outcome.UNFINISHED])
def test_what_did_not_complete_misses_every_target(outcome: Outcome) -> None:
    assert not sample(outcome=outcome).meets(100.0, 100.0)


def test_an_unknown_tpot_is_missed() -> None:
    assert not sample(usage_output_tokens=None).meets(None, 100.0)
