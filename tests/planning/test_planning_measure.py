"""Percentiles stay what they are when there are too many samples to keep."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.planning import measure
from diptych.planning.measure import Buckets, Samples

seconds = st.floats(1e-6, 1e4, allow_nan=False)


@given(st.lists(seconds, min_size=1, max_size=200))
def test_buckets_are_exact_to_a_thousandth(values: list[float]) -> None:
    buckets = Buckets()
    for value in values:
        buckets.add(value)
    summary = buckets.summary()
    ordered = sorted(values)
    for share, got in ((0.5, summary.p50), (0.9, summary.p90), (0.99, summary.p99)):
        rank = -int(-share * len(values) // 1)
        assert got == pytest.approx(ordered[max(0, rank - 1)], rel=1.01e-3)
    assert summary.mean == pytest.approx(sum(values) / len(values))
    assert summary.count == len(values)


@given(seconds, seconds, st.integers(1, 60), st.integers(1, 9))
def test_a_series_is_its_values_one_by_one(first: float, last: float, steps: int, weight: int) -> None:
    series, single = Buckets(), Buckets()
    series.add_series(first, last, steps, weight)
    for i in range(steps):
        single.add(first + (last - first) * (i / (steps - 1) if steps > 1 else 0.0), weight)
    assert series.count == single.count
    assert series.summary().mean == pytest.approx(single.summary().mean)


def test_samples_change_to_buckets_without_losing_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "EXACT_SAMPLES", 100)
    samples = Samples()
    for i in range(1, 1001):
        samples.add(i / 1000)
    summary = samples.summary()
    assert summary.count == 1000
    assert summary.p50 == pytest.approx(0.5, rel=2e-3)
    assert summary.p99 == pytest.approx(0.99, rel=2e-3)
    assert summary.mean == pytest.approx(0.5005)


def test_nothing_is_none() -> None:
    assert Samples().summary().p50 is None
    assert Buckets().summary().mean is None
