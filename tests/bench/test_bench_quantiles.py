"""Percentiles against numpy, intervals against resamples that are really drawn."""

from __future__ import annotations

import random
from bisect import bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.bench.quantiles import P99_REQUESTS, of_gaps, of_requests, quantile, resampled_quantiles

numpy = pytest.importorskip("numpy")


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 1))
def test_quantile_is_numpys(values: list[float], share: float) -> None:
    assert quantile(sorted(values), share) == pytest.approx(float(numpy.quantile(values, share)), abs=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("count", [2, 7, 200])
def test_resampled_quantiles_are_those_of_a_bootstrap(count: int, share: float) -> None:
    """Equal distributions: their shares below any x agree within the noise of 4,000 draws (0.8 % each)."""
    chooser = random.Random(5)
    ordered = sorted(chooser.gammavariate(4, 0.1) for _ in range(count))
    ours = sorted(
        value for seed in range(10) for value in resampled_quantiles(ordered, share, random.Random(seed))
    )
    drawn = sorted(quantile(sorted(chooser.choices(ordered, k=count)), share) for _ in range(4000))
    for place in range(1, 10):
        x = ordered[0] + (ordered[-1] - ordered[0]) * (place / 10 + 1e-4)
        assert bisect_right(ours, x) / len(ours) == pytest.approx(
            bisect_right(drawn, x) / len(drawn), abs=0.04
        )


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    chooser = random.Random(11)
    held = 0
    for seed in range(200):
        interval = of_requests([chooser.expovariate(1.0) for _ in range(60)], seed).intervals["p50"]
        assert interval is not None
        held += interval[0] <= 0.6931 <= interval[1]
    assert 175 <= held <= 200  # 95 % of 200, with four standard deviations below


def test_gaps_of_one_request_resemble_each_other() -> None:
    """Twenty requests of equal gaps each are twenty observations, not two thousand."""
    chooser = random.Random(3)
    levels = [chooser.uniform(0.01, 0.1) for _ in range(20)]
    grouped = of_gaps([[level] * 100 for level in levels], 0)
    single = of_requests([level for level in levels for _ in range(100)], 0)
    assert grouped.count == single.count == 2000 and grouped.requests == 20
    assert grouped.percentiles["p50"] == single.percentiles["p50"]
    wide, narrow = grouped.intervals["p50"], single.intervals["p50"]
    assert wide is not None and narrow is not None
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])


@pytest.mark.parametrize("count", [0, 1, P99_REQUESTS - 1, P99_REQUESTS])
def test_p99_needs_many_requests(count: int) -> None:
    shown = of_requests([float(i) for i in range(count)], 0).as_data()
    assert (shown["p99"] is None) == (count < P99_REQUESTS) == ("p99_reason" in shown)
    assert shown["count"] == count and shown["of"] == "requests"
    assert (shown["p50"] is None) == (count == 0)


def test_equal_seeds_give_equal_intervals() -> None:
    values = [random.random() for _ in range(100)]
    assert of_requests(values, 3) == of_requests(values, 3)
    assert of_requests(values, 3).intervals != of_requests(values, 4).intervals
