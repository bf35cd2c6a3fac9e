"""Figures of a run, on samples that can be counted by hand; when the client is to blame; two results
compared."""

from __future__ import annotations

from typing import Any

import pytest

from diptych.bench.compare import compare
from diptych.bench.load import Loaded
from diptych.bench.sample import Outcome, Sample
from diptych.bench.summary import Measured, Window, figures, window_of
from diptych.bench.watch import ClientWatch, reasons_void
from diptych.domain.cluster import SloSpec

SLO = SloSpec(ttft_s=1.0, tpot_s=0.5)


def sample(index: int, due_s: float, ttft_s: float = 0.5, **given: Any) -> Sample:
    """Three tokens, a quarter of a second apart."""
    first_s = due_s + ttft_s
    plain: dict[str, Any] = {
        "input_tokens": 10,
        "output_tokens": 3,
        "due_s": due_s,
        "sent_s": due_s,
        "chunk_s": [first_s, first_s + 0.25, first_s + 0.5],
        "chunk_tokens": [1, 1, 1],
        "end_s": first_s + 0.5,
        "outcome": Outcome.COMPLETED,
        "usage_prompt_tokens": 10,
        "usage_output_tokens": 3,
    }
    return Sample(index=index, **{**plain, **given})


def broken(index: int, due_s: float, outcome: Outcome, code: str) -> Sample:
    return sample(index, due_s, chunk_s=[], end_s=due_s + 0.1, outcome=outcome, error_code=code)


def measured(*samples: Sample, window: Window | None = None) -> Measured:
    loaded = Loaded(samples=list(samples))
    return Measured(loaded, window or window_of(loaded, 0.0, 0.0), 0)


MIXED = (
    sample(0, 0.0),
    sample(1, 1.0, ttft_s=2.0),
    broken(2, 2.0, Outcome.REJECTED, "server_overloaded"),
    broken(3, 3.0, Outcome.FAILED, "worker_lost"),
    sample(4, 9.0, usage_output_tokens=None, chunk_tokens=None),
)


def test_every_request_is_counted_once() -> None:
    found = figures([measured(*MIXED)], SLO, closed=False, seed=0)
    assert found["requests"] == 5 == sum(found[outcome.value] for outcome in Outcome)
    assert (found["completed"], found["rejected"], found["failed"], found["unfinished"]) == (3, 1, 1, 0)
    assert found["errors"] == {"server_overloaded": 1, "worker_lost": 1}
    assert found["mismatches"] == {"output_tokens": 0, "prompt_tokens": 0, "no_usage": 1}


def test_shed_failed_slow_and_unknown_ones_miss_their_targets() -> None:
    found = figures([measured(*MIXED)], SLO, closed=False, seed=0)
    assert found["measured_s"] == 10.0
    assert found["slo_attainment"] == 1 / 5
    assert found["goodput_rps"] == 1 / 10
    assert found["output_tokens_per_s"] == 6 / 10


def test_percentiles_are_of_completed_requests() -> None:
    found = figures([measured(*MIXED)], SLO, closed=False, seed=0)
    assert (found["ttft_s"]["p50"], found["ttft_s"]["count"]) == (0.5, 3)
    assert (found["tpot_s"]["p50"], found["tpot_s"]["count"]) == (0.25, 2)
    assert (found["itl_s"]["p50"], found["itl_s"]["count"], found["itl_s"]["of"]) == (0.25, 6, "gaps")
    assert found["e2e_s"]["mean"] == pytest.approx((1.0 + 2.5 + 1.0) / 3)


def test_a_closed_loop_has_no_goodput() -> None:
    found = figures([measured(*MIXED)], SLO, closed=True, seed=0)
    assert found["goodput_rps"] is found["slo_attainment"] is None
    assert "closed loop" in found["goodput_reason"]


def test_without_targets_there_is_none_either() -> None:
    assert "--ttft" in figures([measured(*MIXED)], SloSpec(), closed=False, seed=0)["goodput_reason"]


def test_lengths_that_are_not_as_asked_are_counted() -> None:
    odd = sample(0, 0.0, usage_output_tokens=2, usage_prompt_tokens=11)
    found = figures([measured(odd, sample(1, 1.0))], SLO, closed=False, seed=0)
    assert found["mismatches"] == {"output_tokens": 1, "prompt_tokens": 1, "no_usage": 0}


def test_a_window_counts_requests_by_due_moment_and_tokens_by_arrival() -> None:
    samples = [sample(index, float(index)) for index in range(10)]
    window = window_of(Loaded(samples=samples), 2.0, 1.0)
    assert (window.start_s, window.end_s) == (2.0, 8.0)
    found = figures([measured(*samples, window=window)], SLO, closed=False, seed=0)
    assert found["requests"] == 6  # due at 2, 3, … 7
    assert found["measured_s"] == 6.0
    assert found["output_tokens_per_s"] == 18 / 6  # those of 1 … 7 at i + 0.5, 0.75 and 1 that lie in it


def test_runs_are_taken_together() -> None:
    one = measured(*MIXED)
    found = figures([one, one], SLO, closed=False, seed=0)
    assert (found["requests"], found["goodput_rps"], found["measured_s"]) == (10, 1 / 10, 20.0)


def test_a_run_without_requests_has_no_figures() -> None:
    found = figures([measured()], SLO, closed=False, seed=0)
    assert (found["requests"], found["ttft_s"]["p50"], found["goodput_rps"]) == (0, None, None)


# ---------------------------------------------------------------- whose fault it is


def late(by_s: float, ttft_s: float = 0.1) -> list[Sample]:
    return [sample(index, float(index), ttft_s, sent_s=index + by_s) for index in range(20)]


@pytest.mark.parametrize(
    ("watch", "samples", "word"),
    [
        (ClientWatch(wall_s=10, cpu_s=9), late(0.0), "one core"),
        (ClientWatch(wall_s=10, cpu_s=1), late(0.003), "requests left 3.0 ms late at p50"),
        (ClientWatch(wall_s=10, cpu_s=1), [*late(0.0), *late(0.02)[:5]], "requests left 20.0 ms late at p90"),
        (ClientWatch(wall_s=10, cpu_s=1, loop_late_s=[0.003] * 9), late(0.0), "event loop"),
    ],
)
def test_a_client_that_was_the_bottleneck(watch: ClientWatch, samples: list[Sample], word: str) -> None:
    (reason,) = reasons_void(watch, samples)
    assert word in reason


@pytest.mark.parametrize(
    ("watch", "samples"),
    [
        (ClientWatch(wall_s=10, cpu_s=8), late(0.001)),
        (ClientWatch(wall_s=10, cpu_s=8), late(0.01, ttft_s=1.0)),  # 1 % of what is measured
        (ClientWatch(), []),
    ],
)
def test_one_that_was_not(watch: ClientWatch, samples: list[Sample]) -> None:
    assert reasons_void(watch, samples) == []


# ---------------------------------------------------------------- two results


def result(ttft_s: float, **given: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    samples = [sample(index, float(index), ttft_s + index / 1000) for index in range(50)]
    run = measured(*samples)
    summary = {
        **figures([run], SLO, closed=False, seed=0),
        "void": False,
        "partial": False,
        "provenance": {"windows_s": [[run.window.start_s, run.window.end_s]], "settings": {"seeds": [0]}},
        **given,
    }
    return summary, [{"run": 0, **one.as_data()} for one in samples]


def test_a_ratio_has_an_interval_that_holds_it() -> None:
    (a, a_rows), (b, b_rows) = result(0.2), result(0.4)
    found = compare((a, b), (a_rows, b_rows))
    row = found["metrics"]["ttft_s"]
    low, high = row["ratio_interval"]
    assert row["ratio"] == pytest.approx(row["b"] / row["a"])
    assert low < row["ratio"] < high
    assert row["a_interval"][0] < row["a"] < row["a_interval"][1]
    assert found["metrics"]["goodput_rps"]["ratio"] == pytest.approx(b["goodput_rps"] / a["goodput_rps"])
    assert found["warnings"] == []


def test_what_can_not_be_compared_is_said() -> None:
    (a, a_rows), (b, b_rows) = result(0.2, void=True), result(0.4, partial=True)
    b["provenance"] = {**b["provenance"], "settings": {"seeds": [1]}}
    words = " ".join(compare((a, b), (a_rows, b_rows))["warnings"])
    assert all(word in words for word in ("A is void", "B is partial", "seeds differs"))
