"""Closed forms and small parts of the search: what they say is known beforehand."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, exp
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.domain.errors import SpecError
from diptych.domain.fleet import DecodeFit, PrefillFit, ProfileSpec
from diptych.domain.worker import Role
from diptych.performance.steps import Chunk
from diptych.planning.search.bounds import Bounds, Question
from diptych.planning.search.candidate import Candidate, PoolPlan, Serving, cluster_of
from diptych.planning.search.draws import MORE_DECODE, MORE_PREFILL, Traffic
from diptych.planning.search.engine import Engine
from diptych.planning.search.finalist import Finalist, gain, interval, paired_ratio
from diptych.planning.search.floors import check_budget, check_floors, floors
from diptych.planning.search.goodput import (
    STAYS,
    Effects,
    Goodput,
    Probe,
    Search,
    bisect_rate,
    one_part,
    parts_of,
    requests_needed,
)
from diptych.planning.search.hardware import profile_engine
from diptych.planning.search.links import exposed_s, link_between, parse_link
from diptych.planning.search.pareto import Point, mark_front
from diptych.planning.search.phases import Capacity
from diptych.planning.search.queueing import share_in_time, wait_probability
from diptych.planning.search.regret import FIXED_SHARES, stranding
from diptych.planning.search.shape import Row, filling_tokens, shape_of
from diptych.planning.search.targets import Budget, Targets, budget_of
from diptych.planning.traces import open_workload

POISSON = (
    "synthetic:poisson,rate=5,input=lognormal(median=1000,p90=3000),output=lognormal(median=100,p90=300)"
)


def engine(name: str = "A", chips: int = 1, speed: float = 1.0, watts: float | None = 500.0) -> Engine:
    """A measured engine; ``speed`` divides all its times."""
    profile = ProfileSpec(
        prefill=PrefillFit(fixed_s=0.005 / speed, per_token_s=5e-5 / speed, per_token2_s=1e-10 / speed),
        decode=(DecodeFit(fixed_s=0.01 / speed, per_context_token_s=2e-8 / speed),),
        kv_tokens=300_000,
        kv_bytes_per_token=100_000,
        chips=chips,
        power_busy_w=watts,
        cost_per_hour=2.0 * chips,
    )
    return profile_engine(name, profile, layers=32, port_bytes_per_s=50e9)


def question(unit: str = "devices", limit: float = 8, ttft_s: float = 1.0, tpot_s: float = 0.03) -> Question:
    """About `POISSON`."""
    shape = shape_of(Traffic(POISSON, open_workload).draw(0, 400))
    return Question(shape, Targets(ttft_s, tpot_s), Budget(unit, limit))  # type: ignore[arg-type]


# ---------------------------------------------------------------- queueing


def test_one_server_waits_with_its_load() -> None:
    assert wait_probability(1, 0.6) == pytest.approx(0.6)
    assert wait_probability(2, 1.0) == pytest.approx(1 / 3)  # Erlang's C, two servers, half loaded
    assert wait_probability(4, 4.0) == 1.0


def test_exponential_tail_of_one_server() -> None:
    """Poisson arrivals, exponential service: P(wait > t) = ρ·exp(−(1−ρ)·t/E[S])."""
    draw = Random(1)
    services = [draw.expovariate(1.0) for _ in range(40_000)]
    limits = [service + 2.0 for service in services]
    assert share_in_time(services, limits, 1, 0.7, 1.0) == pytest.approx(1 - 0.7 * exp(-0.3 * 2.0), abs=0.01)


def test_overload_is_never_in_time() -> None:
    assert share_in_time([1.0], [100.0], 2, 2.0, 1.0) == 0.0


@given(st.floats(0.01, 0.95), st.integers(1, 8))
def test_more_load_is_never_better(load: float, servers: int) -> None:
    services = [0.1, 0.2, 0.6]
    limits = [1.0] * 3
    rate = load * servers / 0.3
    less = share_in_time(services, limits, servers, rate * 0.9, 1.0)
    assert share_in_time(services, limits, servers, rate, 1.0) <= less + 1e-12


# ---------------------------------------------------------------- draws and shapes


def test_draws_differ_by_seed_and_repeat() -> None:
    traffic = Traffic(POISSON, open_workload)
    assert traffic.draw(1, 50) == traffic.draw(1, 50)
    assert traffic.draw(1, 50) != traffic.draw(2, 50)


def test_a_draw_at_a_rate_has_that_rate() -> None:
    rows = Traffic(POISSON, open_workload).draw(0, 300).at_rate(12.0, 300)
    assert (len(rows) - 1) / rows[-1].t_s == pytest.approx(12.0)


def test_shifts_change_lengths_only() -> None:
    traffic = Traffic(POISSON, open_workload)
    plain, longer = traffic.draw(0, 80), traffic.shifted(MORE_PREFILL).draw(0, 80)
    assert [row.input_tokens for row in longer.arrivals] == [2 * row.input_tokens for row in plain.arrivals]
    outputs = [row.output_tokens for row in traffic.shifted(MORE_DECODE).draw(0, 80).arrivals]
    assert outputs == [2 * row.output_tokens for row in plain.arrivals]
    assert [it.start_s for it in longer.offers] == [it.start_s for it in plain.offers]


def test_sessions_are_laid_out_in_time() -> None:
    spec = "synthetic:poisson,rate=1,sessions=chat,turns=6,input=200,output=50,think_s=4"
    draw = Traffic(spec, open_workload, pace=(1.0, 0.02)).draw(0, 200)
    assert draw.sessions
    assert draw.calls == pytest.approx(6, rel=0.4)
    rows = draw.at_rate(10.0, 150)
    assert all(row.session_id is None and row.delay_s is None for row in rows)
    assert [row.t_s for row in rows] == sorted(row.t_s for row in rows)
    assert (len(rows) - 1) / rows[-1].t_s == pytest.approx(10.0, rel=0.25)


def test_a_trace_is_drawn_in_windows(tmp_path) -> None:
    lines = [f'{{"timestamp": {100 * i}, "input_length": {i + 1}, "output_length": 5}}' for i in range(100)]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    traffic = Traffic(str(path), open_workload)
    lengths = [row.input_tokens for row in traffic.draw(3, 20).arrivals]
    assert lengths == list(range(lengths[0], lengths[0] + 20))
    whole = traffic.draw(3, 500)
    assert [row.input_tokens for row in whole.arrivals] == list(range(1, 101))


def test_a_workload_of_one_request_is_refused(tmp_path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 5, "output_length": 5}\n', encoding="utf-8")
    with pytest.raises(SpecError, match="too few"):
        Traffic(str(path), open_workload).draw(0, 10)


def test_seen_prefixes_count_as_cached(tmp_path) -> None:
    rows = [
        '{"timestamp": 0, "input_length": 1024, "output_length": 4, "hash_ids": [1, 2]}',
        '{"timestamp": 9, "input_length": 1500, "output_length": 4, "hash_ids": [1, 2, 3]}',
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(rows), encoding="utf-8")
    shape = shape_of(Traffic(str(path), open_workload).draw(0, 10))
    assert set(shape.rows) == {Row(1024, 0, 4), Row(476, 1024, 4)}
    assert shape.cached_share == pytest.approx(1024 / 2524)


def test_long_outputs_fill_a_cluster_slowly() -> None:
    shape = shape_of(Traffic(POISSON, open_workload).draw(0, 400))
    outputs = [row.output_tokens for row in shape.rows]
    steps = filling_tokens(shape)
    assert sum(min(output, steps) for output in outputs) == pytest.approx(0.9 * sum(outputs))
    assert steps > sum(outputs) / len(outputs)


# ---------------------------------------------------------------- capacities


def test_capacities_grow_with_workers_and_targets() -> None:
    asked, tight = question(), question(tpot_s=0.0125)
    one = engine()
    bounds = Bounds([one], asked)
    assert bounds.prefill(one, 4).rate_rps > 4 * bounds.prefill(one, 1).rate_rps
    assert bounds.decode(one, 2).rate_rps > 2 * bounds.decode(one, 1).rate_rps
    assert bounds.decode(one, 2).rate_rps > Bounds([one], tight).decode(one, 2).rate_rps
    assert bounds.mixed(one, 2, 1024).rate_rps > Bounds([one], tight).mixed(one, 2, 1024).rate_rps


def test_a_slow_link_binds() -> None:
    bounds = Bounds([engine()], question())
    one = bounds.engines[0]
    fast = bounds.of_split(one, 4, one, 4)
    assert fast is not None and fast.link is not None
    slow = fast.link.model_copy(update={"bandwidth_bytes_per_s": 2e8})
    capacity = bounds.split_capacity(one, 4, one, 4, slow)
    assert capacity.binds == "link"
    assert capacity.rate_rps < fast.estimate.rate_rps


def test_splits_use_the_whole_budget_and_never_more() -> None:
    for limit in (3, 7, 16):
        engines = [engine("small", 1), engine("large", 2, 1.8)]
        bounds = Bounds(engines, question(limit=limit))
        for split in bounds.splits(each=3):
            assert limit - 1 <= split.chips <= limit
    money = Bounds([engine("small", 1), engine("large", 2, 1.8)], question("money", 17.0))
    assert all((it.amount("money") or 0) <= 17.0 for it in money.splits() + money.unsplit())


def test_grain_gives_equal_parts() -> None:
    bounds = Bounds([engine()], question(limit=32), grain=4)
    for candidate in bounds.splits(each=3) + bounds.unsplit():
        assert all(pool.workers % 4 == 0 for pool in candidate.pools), candidate.name
        assert candidate.chips == 32


def test_grain_never_costs_much_hardware() -> None:
    for limit in (3, 5, 7, 30, 31):
        bounds = Bounds([engine()], question(limit=limit), grain=4)
        for candidate in bounds.splits(each=3) + bounds.unsplit():
            assert candidate.chips >= 0.96 * limit, candidate.name


def test_capped_engines_only_decode() -> None:
    plain = engine()
    capped = Engine(
        "capped", "A", 1, plain.steps, 100_000, 32, watts=350.0, port_bytes_per_s=50e9, uncapped=plain
    )
    bounds = Bounds([plain, capped], question("watts", 4000.0))
    assert all(pool.engine is not capped for it in bounds.unsplit() for pool in it.pools)
    used = {pool.role for it in bounds.splits() for pool in it.pools if pool.engine is capped}
    assert used == {Role.DECODE}
    split = bounds.splits()[0]
    assert all(pool.engine is plain for pool in bounds.unsplit_hardware(split).pools)


def test_every_kind_of_hardware_is_in_the_unsplit_baseline() -> None:
    bounds = Bounds([engine("fast", 1, 3.0), engine("slow", 1)], question())
    split = bounds.of_split(bounds.engines[0], 2, bounds.engines[1], 6)
    assert split is not None
    same = bounds.unsplit_hardware(split)
    assert same.kind == "unsplit"
    assert {(pool.engine.name, pool.workers) for pool in same.pools} == {("fast", 2), ("slow", 6)}


def test_prefill_follows_the_step_model() -> None:
    one = engine()
    chunks = [Chunk(8192, 0), Chunk(1808, 8192)]
    assert one.prefill_s(10_000, 0, 8192) == pytest.approx(sum(one.steps.step_s([it], 0, 0) for it in chunks))


# ---------------------------------------------------------------- budgets, floors, links


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("16", Budget("devices", 16)),
        ("1 chip", Budget("devices", 1)),
        ("50USD/h", Budget("money", 50)),
        ("$1,200.5/h", Budget("money", 1200.5)),
        ("$7", Budget("money", 7)),
        ("10kW", Budget("watts", 10_000)),
        ("700 w", Budget("watts", 700)),
    ],
)
def test_a_budget_with_its_unit(text: str, budget: Budget) -> None:
    assert budget_of(None, None, None, text) == budget


@pytest.mark.parametrize("text", ["", "many", "16 apples", "2.5", "$5 chips", "-3", "50EUR"])
def test_a_budget_that_says_nothing(text: str) -> None:
    with pytest.raises(SpecError, match=r"--budget .*16 \(chips\)|counted whole"):
        budget_of(None, None, None, text)


def test_one_budget_whatever_its_flag() -> None:
    with pytest.raises(SpecError, match="one budget"):
        budget_of(4, None, None, "10kW")
    with pytest.raises(SpecError, match="positive"):
        budget_of(None, None, None, "0")


def test_one_budget_and_only_one() -> None:
    assert budget_of(4, None, None) == Budget("devices", 4)
    with pytest.raises(SpecError, match="one budget"):
        budget_of(4, 10.0, None)
    with pytest.raises(SpecError, match="no budget"):
        budget_of(None, None, None)
    with pytest.raises(SpecError, match="positive"):
        budget_of(0, None, None)


def test_a_budget_that_buys_nothing_names_the_least() -> None:
    with pytest.raises(SpecError, match=r"--budget-devices 4"):
        check_budget([engine("A", 4)], Budget("devices", 2))
    with pytest.raises(SpecError, match="no watts figure"):
        check_budget([engine(watts=None)], Budget("watts", 5000))


def test_floors_name_the_flag_and_the_nearest_target() -> None:
    shape = question().shape
    found = floors([engine()], shape, 0.9)
    check_floors(found, Targets(found.ttft_s * 1.01, found.tpot_s * 1.01))
    with pytest.raises(SpecError, match=r"--ttft .* floor .* nearest feasible: --ttft") as error:
        check_floors(found, Targets(found.ttft_s * 0.9, 1.0))
    offered = float(str(error.value).rpartition(" ")[2])
    check_floors(found, Targets(offered, 1.0))
    with pytest.raises(SpecError, match=r"nearest feasible: --tpot"):
        check_floors(found, Targets(10.0, found.tpot_s * 0.9))


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [("400G", 43.5e9), ("50GB/s", 50e9), ("100Gbps", 10.875e9), ("rdma-4x200g", 87e9)],
)
def test_links_by_rate_and_by_name(text: str, bytes_per_s: float) -> None:
    assert parse_link(text) == pytest.approx(bytes_per_s)


@pytest.mark.parametrize("text", ["fast", "0G", "-3G", "12 parsecs"])
def test_links_that_are_none(text: str) -> None:
    with pytest.raises(SpecError, match="--link"):
        parse_link(text)


def test_what_a_link_leaves_exposed() -> None:
    link = link_between(engine(), engine(), 1e9)
    assert link is not None
    fixed_s = link.residual_s + link.latency_s
    assert exposed_s(link, 32, 32e6, 1.0) == pytest.approx(0.001 + fixed_s)  # hidden but for the last layer
    assert exposed_s(link, 32, 4e9, 1.0) == pytest.approx(4 - 31 / 32 + fixed_s)
    assert link_between(Engine("x", "x", 1, engine().steps, 1, 1), engine(), None) is None


# ---------------------------------------------------------------- goodput by bisection


def probe(rate: float, attainment: float) -> Probe:
    """What a simulation might have said."""
    effects = Effects(0.0, 0.0, 0.1, 0.0)
    times = (0.1, 0.2, 0.01, 0.02)
    counts = (100, 100, 1, True)
    return Probe(rate, attainment, 1 - attainment, 0.0, *times, effects, {}, {}, 0.0, None, 1.0, *counts)


def falling(load: float) -> float:
    """An attainment that crosses 0.9 at load 1."""
    return max(0.0, 1.0 - 0.1 * load**4)


@settings(max_examples=60)
@given(st.floats(0.5, 50.0), st.floats(0.1, 10.0))
def test_bisection_finds_where_attainment_falls(goodput: float, wrong: float) -> None:
    search = Search(share=0.9, tolerance=0.05, most_probes=12, least_requests=1, most_requests=1, stay_s=1.0)
    found = bisect_rate(lambda rate: probe(rate, falling(rate / goodput)), goodput * wrong, search)
    assert found.rate_rps == pytest.approx(goodput, rel=0.06)
    assert found.at is not None and found.at.attainment >= 0.9


def test_bisection_says_nothing_where_nothing_is_good() -> None:
    search = Search(share=0.9, tolerance=0.05, most_probes=5, least_requests=1, most_requests=1, stay_s=1.0)
    assert bisect_rate(lambda rate: probe(rate, 0.2), 8.0, search).rate_rps == 0.0


def test_fleets_in_parts() -> None:
    one = engine()
    pools = (PoolPlan(one, Role.PREFILL, 8, 8192), PoolPlan(one, Role.DECODE, 16, 512))
    link = link_between(one, one, None)
    serving = Serving("m", Targets(1.0, 0.03), 16, prompt_cache=False)
    spec = cluster_of(Candidate(pools, Capacity(1.0, ""), link), serving)
    search = Search(
        share=0.9,
        tolerance=0.05,
        most_probes=5,
        least_requests=100,
        most_requests=500,
        stay_s=10.0,
        span_s=20.0,
    )
    assert [parts_of(spec, replace(search, parts=wished)) for wished in (1, 2, 4, 8)] == [1, 2, 4, 4]
    assert parts_of(spec, replace(search, parts=6)) == 2
    assert requests_needed(2.0, search) == 100 + ceil(STAYS * 2.0 * 10.0)
    assert requests_needed(50.0, search) == 50 * 20 + ceil(STAYS * 50.0 * 10.0)
    assert [pool.workers for pool in one_part(spec, 4).pools] == [2, 4]


# ---------------------------------------------------------------- finalists


def finalist(name: str, chips: int, rates: list[float]) -> Finalist:
    """With a goodput for each seed."""
    pool = PoolPlan(engine(name, chips), Role.MIXED, 1, 512)
    candidate = Candidate((pool,), Capacity(1.0, "prefill FLOP"))
    return Finalist(candidate, {seed: Goodput(rate, None, ()) for seed, rate in enumerate(rates)})


def test_intervals_over_seeds() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.high == pytest.approx(2 + 4.303 / 3**0.5)
    assert interval([1.0]).low is None


def test_ratios_are_paired_by_seed() -> None:
    """Draws differ much, the ratio does not: pairing keeps the interval narrow."""
    one, other = finalist("A", 1, [11.0, 22.0, 33.0]), finalist("B", 1, [10.0, 20.0, 30.0])
    ratio = paired_ratio(one, other)
    assert ratio is not None and ratio.low is not None
    assert ratio.mean == pytest.approx(1.1)
    assert ratio.low == pytest.approx(1.1)
    assert paired_ratio(one, finalist("C", 1, [0.0, 1.0, 1.0])) is None


def test_a_gain_counts_all_hardware() -> None:
    one, other = finalist("A", 4, [8.0]), finalist("B", 1, [1.0])
    assert gain(one, other, "devices") == pytest.approx(2.0)
    assert gain(one, other, "devices", ["A", "B"]) == pytest.approx(2.0)
    with pytest.raises(SpecError, match="leaves out A"):
        gain(one, other, "devices", ["B"])


# ---------------------------------------------------------------- stranding, fronts


def test_stranding_of_published_workloads() -> None:
    """Latency model T11: shares of code, conversation and Mooncake on H100 machines."""
    shares = {"code": 0.862, "conv": 0.318, "mooncake": 0.750}
    rows = {row.sized_for: row.kept for row in stranding(shares, None)}
    expected = {
        "code": (1.00, 0.202, 0.550),
        "conv": (0.369, 1.00, 0.424),
        "mooncake": (0.869, 0.367, 1.00),
        "30 % prefill": (0.348, 0.943, 0.400),
        "50 % prefill": (0.580, 0.733, 0.667),
        "70 % prefill": (0.812, 0.440, 0.934),
    }
    assert set(expected) == set(rows)
    assert len(FIXED_SHARES) == 3
    for name, values in expected.items():
        assert tuple(rows[name].values()) == pytest.approx(values, abs=0.005), name


def test_a_front_holds_what_nothing_beats() -> None:
    points = [
        Point(0.02, 1.0, "unsplit", "a", "simulated"),
        Point(0.03, 0.9, "split", "b", "simulated"),
        Point(0.04, 2.0, "split", "c", "simulated"),
        Point(0.04, 1.5, "unsplit", "d", "simulated"),
    ]
    assert {point.name for point in mark_front(points) if point.on_front} == {"a", "c"}
