"""The observed cost: defaults, following, forgetting, borrowing from others."""

from __future__ import annotations

import pytest

from diptych.domain.ids import WorkerId
from diptych.domain.worker import WorkerStats
from diptych.performance.estimate import (
    DECODE_FIXED_SHARE,
    DEFAULT_DECODE_STEP_S,
    DEFAULT_HANDOFF_S,
    DEFAULT_PREFILL_TOKENS_PER_S,
    MEMORY_BUSY_S,
    ObservedCost,
)

A, B, C = WorkerId("a"), WorkerId("b"), WorkerId("c")


def prefilled(tokens: int, seconds: float, steps: int = 1) -> WorkerStats:
    """Totals of a worker that has only computed prompts."""
    return WorkerStats(steps=steps, prefill_tokens_total=tokens, prefill_s_total=seconds)


def decoded(steps: int, tokens: int, seconds: float) -> WorkerStats:
    """Totals of a worker that has only decoded."""
    return WorkerStats(
        steps=steps, decode_steps_total=steps, decode_tokens_total=tokens, decode_s_total=seconds
    )


def test_before_any_measurement_there_are_defaults() -> None:
    cost = ObservedCost()
    assert cost.prefill_s(A, 500, 0) == pytest.approx(500 / DEFAULT_PREFILL_TOKENS_PER_S)
    assert cost.decode_step_s(A, 1, 100) == pytest.approx(DEFAULT_DECODE_STEP_S)
    assert cost.handoff_s(A, 10, None) == DEFAULT_HANDOFF_S
    assert cost.prefill_s(A, 0, 100) == 0.0


def test_the_first_measurement_replaces_the_default_and_later_ones_are_blended_in() -> None:
    cost = ObservedCost()
    cost.observe(A, prefilled(100, 1.0))
    assert cost.prefill_s(A, 200, 0) == pytest.approx(2.0)
    cost.observe(A, prefilled(200, 1.0 + 0.5, steps=2))
    between = cost.prefill_s(A, 200, 0)
    assert 1.0 < between < 2.0
    cost.observe(A, prefilled(200 + 20_000, 1.5 + 20 * MEMORY_BUSY_S, steps=3))
    assert cost.prefill_s(A, 200, 0) == pytest.approx(1.0, rel=0.01)


def test_who_has_shown_nothing_is_like_the_others() -> None:
    cost = ObservedCost()
    cost.observe(A, prefilled(100, 1.0))
    cost.observe(B, prefilled(100, 3.0))
    assert cost.prefill_s(C, 100, 0) == pytest.approx(2.0)
    cost.observe(C, WorkerStats(steps=1))
    assert cost.prefill_s(C, 100, 0) == pytest.approx(2.0)


def test_a_decode_step_grows_with_the_batch_around_the_observed_one() -> None:
    cost = ObservedCost()
    cost.observe(A, decoded(steps=10, tokens=40, seconds=0.4))
    assert cost.decode_step_s(A, 4, 0) == pytest.approx(0.04)
    assert cost.decode_step_s(A, 8, 0) == pytest.approx(
        0.04 * (DECODE_FIXED_SHARE + 2 * (1 - DECODE_FIXED_SHARE))
    )
    assert cost.decode_step_s(A, 8, 0) > cost.decode_step_s(A, 1, 0) > 0


def test_the_batch_of_a_worker_that_does_both_counts_all_its_steps() -> None:
    """Half of its steps hold a prompt beside the four that decode."""
    cost = ObservedCost()
    both = WorkerStats(
        steps=20,
        decode_steps_total=10,
        decode_tokens_total=80,
        decode_s_total=0.4,
        prefill_tokens_total=1000,
        prefill_s_total=2.0,
    )
    cost.observe(A, both)
    assert cost.decode_step_s(A, 4, 0) == pytest.approx(0.04)


def test_a_restart_begins_from_nothing_but_remembers_the_rate() -> None:
    cost = ObservedCost()
    cost.observe(A, prefilled(1000, 10.0, steps=50))
    cost.observe(A, WorkerStats())
    assert cost.prefill_s(A, 100, 0) == pytest.approx(1.0)
    cost.observe(A, prefilled(100, 1.0, steps=1))
    assert cost.prefill_s(A, 100, 0) == pytest.approx(1.0)


def test_repeated_reports_change_nothing() -> None:
    cost = ObservedCost()
    for _ in range(3):
        cost.observe(A, prefilled(100, 1.0))
    assert cost.prefill_s(A, 100, 0) == pytest.approx(1.0)


def test_handoffs_are_followed() -> None:
    cost = ObservedCost()
    cost.observe_handoff(A, 3, None, 0.010)
    assert cost.handoff_s(A, 3, None) == pytest.approx(0.010)
    cost.observe_handoff(A, 3, None, 0.020)
    assert 0.010 < cost.handoff_s(A, 3, None) < 0.012
    cost.observe_handoff(A, 3, None, -1.0)
    assert cost.handoff_s(A, 3, None) > 0
