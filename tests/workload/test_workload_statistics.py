"""Figures of workloads against the same figures by other means, and against the shared traces."""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean, pstdev, pvariance

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.domain.errors import SpecError
from diptych.planning.traces import open_workload
from diptych.workload.ceilings import prefix_ceiling
from diptych.workload.quantiles import Histogram, quantile
from diptych.workload.record import Arrival, Workload
from diptych.workload.shares import (
    PhaseRates,
    prefill_share,
    relative_throughput,
    rigid_over_pooled,
    share_range,
    windows,
)
from diptych.workload.statistics import statistics
from support.shared_data import data_file

CODE = "traces/azure2023/AzureLLMInferenceTrace_code.csv"
CONV = "traces/azure2023/AzureLLMInferenceTrace_conv.csv"
MOONCAKE = "traces/mooncake_fast25/conversation_trace.jsonl"
SHAREGPT = "traces/sharegpt_lengths/sharegpt_val_10k_llama2.csv"
MIXED = "traces/llmservingsim/workload_me2_01_mixed.jsonl"
H100 = PhaseRates(2048 / 0.137, 64 / 0.0502)
"""One H100 machine of the latency model's T11."""


def of(arrivals: list[Arrival], block_tokens: int = 512) -> Workload:
    return Workload("test", lambda: iter(arrivals), block_tokens)


def shared(name: str) -> Workload:
    return open_workload(str(data_file(name)))


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=50), st.floats(0, 1))
def test_quantiles_are_numpys(values: list[int], share: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    expected = float(np.quantile(values, share))
    assert histogram.quantile(share) == pytest.approx(expected)
    assert quantile(values, share) == pytest.approx(expected)
    assert histogram.cumulative()[-1] == (max(values), 1.0)


@given(st.lists(st.floats(0, 500), min_size=3, max_size=60).map(sorted))
def test_arrival_figures_by_definition(instants: list[float]) -> None:
    found = statistics(of([Arrival(t_s=t_s, input_tokens=1, output_tokens=1) for t_s in instants]))
    gaps = [after - before for before, after in pairwise(instants)]
    if (mean := fmean(gaps)) > 1e-6:
        assert found.arrival_cv == pytest.approx(pstdev(gaps) / mean, abs=1e-6)
    past = [t_s - instants[0] for t_s in instants]
    full = int(past[-1] // 10.0)
    counts = [sum(int(t_s // 10.0) == place for t_s in past) for place in range(full)]
    if counts:
        assert found.dispersion[10.0] == pytest.approx(pvariance(counts) / fmean(counts), abs=1e-9)


def naive_hits(arrivals: list[Arrival], room: int | None, block_tokens: int) -> int:
    """A list as the cache: the oldest first."""
    held: list[int] = []
    tokens = 0
    for arrival in arrivals:
        hits = 0
        while hits < len(arrival.hash_ids) and arrival.hash_ids[hits] in held:
            hits += 1
        tokens += min(hits * block_tokens, arrival.input_tokens)
        for block in arrival.hash_ids:
            if block in held:
                held.remove(block)
            held.append(block)
        del held[: max(0, len(held) - room) if room is not None else 0]
    return tokens


@given(st.lists(st.lists(st.integers(0, 8), max_size=6, unique=True), max_size=12), st.integers(1, 6))
def test_ceilings_against_a_plain_list(prompts: list[list[int]], room: int) -> None:
    arrivals = [
        Arrival(t_s=0, input_tokens=max(1, 10 * len(ids) - 3), output_tokens=1, hash_ids=tuple(ids))
        for ids in prompts
    ]
    found = prefix_ceiling(of(arrivals, 10), [room * 10, room * 10 + 9])
    assert found.hit_tokens == naive_hits(arrivals, None, 10)
    assert found.lru_hit_tokens[room * 10] == naive_hits(arrivals, room, 10)
    assert found.lru_hit_tokens[room * 10 + 9] == found.lru_hit_tokens[room * 10]


def test_a_cache_below_one_block_is_refused() -> None:
    with pytest.raises(SpecError, match="smaller than one block"):
        prefix_ceiling(of([]), [100])


def test_windows_hold_all_work() -> None:
    arrivals = [Arrival(t_s=t_s, input_tokens=10, output_tokens=20) for t_s in (0, 5, 130)]
    found = windows(of(arrivals), PhaseRates(10, 40), 60)
    assert [(w.start_s, w.prefill_s, w.decode_s) for w in found] == [(0, 2, 1), (60, 0, 0), (120, 1, 0.5)]
    assert prefill_share(found) == pytest.approx(2 / 3)
    assert share_range(found) == pytest.approx((2 / 3, 2 / 3))


@pytest.mark.parametrize(
    ("split", "share", "expected"), [(0.5, 0.5, 1), (0.3, 0.6, 0.5), (0, 0.5, 0), (1, 1, 1)]
)
def test_relative_throughput(split: float, share: float, expected: float) -> None:
    assert relative_throughput(split, share) == expected


def test_wrong_rates_are_refused() -> None:
    with pytest.raises(SpecError, match="decode_tokens_per_s"):
        PhaseRates(1, 0)


@pytest.mark.parametrize(
    ("name", "requests", "span_s", "rate", "inputs", "outputs", "cv"),
    [
        (CODE, 8819, 3436, 2.57, (2047.8, 1469, 5188, 7437), (27.9, 13, 55, 1899), 13.15),
        (CONV, 19366, 3502, 5.53, (1154.7, 1020, 2734, 14050), (211.1, 129, 424, 1000), 1.09),
        (MOONCAKE, 12031, 3537, 3.40, (12035, 6909, 27367, 126195), (342.6, 350, 597, 2000), 3.03),
        (SHAREGPT, 10000, 0, 0, (245.8, 35, 761, 3973), (325.6, 286, 682, 1734), None),
        (MIXED, 608, 61, 10, (9218, 2910, 24447, 31383), (3021, 875, 11815, 15890), None),
    ],
)
def test_shared_traces_have_their_published_figures(
    name: str, requests: int, span_s: float, rate: float, inputs: tuple, outputs: tuple, cv: float | None
) -> None:
    """The table of the data folder. Its quantiles are order statistics and not interpolated: 0.2 % off at
    most."""
    found = statistics(shared(name))
    assert found.requests == requests
    assert found.span_s == pytest.approx(span_s, abs=0.5)
    assert found.rate_rps == pytest.approx(rate, abs=0.02)
    for spread, expected in ((found.input_tokens, inputs), (found.output_tokens, outputs)):
        assert spread.mean == pytest.approx(expected[0], abs=0.5)
        assert spread.p50 == pytest.approx(expected[1], rel=2e-3)
        assert spread.p90 == pytest.approx(expected[2], rel=2e-3)
        assert spread.max == expected[3]
    if cv is not None:
        assert found.arrival_cv == pytest.approx(cv, abs=0.005)


def test_prefix_ceilings_of_mooncakes_conversations() -> None:
    """T9 of the latency model, exact to 0.01 point."""
    sizes = {1: 5.42, 3: 13.82, 10: 29.08, 30: 36.58, 50: 37.07}
    found = prefix_ceiling(shared(MOONCAKE), [millions * 1_000_000 for millions in sizes])
    assert (found.hit_blocks, found.blocks, found.distinct_blocks) == (105_710, 288_500, 182_790)
    assert round(100 * found.hit_block_share, 2) == 36.64
    assert round(100 * found.hit_token_share, 2) == 37.36
    for millions, percent in sizes.items():
        assert 100 * found.lru_token_share(millions * 1_000_000) == pytest.approx(percent, abs=0.01)


def test_stranding_of_three_traces() -> None:
    """T11 of the latency model: shares, throughput under another split, and windows of a minute."""
    found = {name: windows(shared(name), H100) for name in (CODE, CONV, MOONCAKE)}
    share = {name: prefill_share(found[name]) for name in found}
    assert [round(share[name], 3) for name in found] == [0.862, 0.318, 0.750]
    table = [[relative_throughput(share[sized], share[served]) for served in found] for sized in found]
    expected = [[1, 0.202, 0.550], [0.369, 1, 0.424], [0.869, 0.367, 1]]
    assert np.allclose(table, expected, atol=0.005)
    fixed = [[relative_throughput(split, share[served]) for served in found] for split in (0.3, 0.5, 0.7)]
    assert np.allclose(
        fixed, [[0.348, 0.943, 0.400], [0.580, 0.733, 0.667], [0.812, 0.440, 0.934]], atol=0.005
    )
    ranges = [share_range(found[name]) for name in found]
    assert np.allclose(ranges, [(0.80, 0.90), (0.22, 0.48), (0.71, 0.79)], atol=0.01)
    assert all(1.01 < rigid_over_pooled(found[name]) < 1.13 for name in found)


@pytest.mark.parametrize(
    ("folder", "expected"), [("reason-deepseek-r1", 873_194), ("multimodal-mm-image", 285_330)]
)
def test_servegens_folders_give_their_rates(folder: str, expected: int) -> None:
    """The sum of rate × 600 s over all slots; the first two hours are drawn."""
    source = shared(f"traces/servegen/{folder}")
    end_s = 7200.0
    path = data_file(f"traces/servegen/{folder}")
    due = sum(
        float(line.split(",")[1]) * 600
        for file in path.glob("*-trace.csv")
        for line in file.read_text().splitlines()
        if float(line.split(",")[0]) < end_s
    )
    count = 0
    for arrival in source:
        if arrival.t_s >= end_s:
            break
        count += 1
    assert due < expected
    assert count == pytest.approx(due, rel=0.05)
