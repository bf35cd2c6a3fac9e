"""Closed forms of the planner: their own laws, and refusals of nonsense by name."""

from __future__ import annotations

from math import exp, isclose
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.domain.errors import SpecError
from diptych.planning.closed.budgets import MachineUnits, cap_pool, equal_machines, machines_for
from diptych.planning.closed.lengths import LogNormalLengths
from diptych.planning.closed.matching import (
    DecodeOption,
    PrefillOption,
    best_within,
    match_rates,
    smallest_ratio,
)
from diptych.planning.closed.offload import OffloadFleet, best_offload, best_threshold, offload_plan
from diptych.planning.closed.polynomial import Polynomial, fit_polynomial
from diptych.planning.closed.queueing import md1_ttft_s, replicas, tensor_parallel_ttft_s, two_stage_ttft_s
from diptych.planning.closed.stranding import flexible_needed, regret_matrix, with_flexible

shares = st.floats(min_value=0.01, max_value=0.99)


# ---------------------------------------------------------------- polynomials


@given(st.tuples(*[st.floats(-10, 10)] * 3))
def test_a_quadratic_is_found_again_through_any_four_points(coefficients: tuple[float, float, float]) -> None:
    wanted = Polynomial(coefficients)
    found = fit_polynomial([(x, wanted.at(x)) for x in (1e3, 8e3, 3.2e4, 1.28e5)])
    for x in (1e3, 5e4, 1.28e5):
        assert isclose(found.at(x), wanted.at(x), rel_tol=1e-6, abs_tol=1e-6)


def test_too_few_points_are_refused() -> None:
    with pytest.raises(SpecError, match="points: 2 distinct x cannot fix degree 2"):
        fit_polynomial([(1, 1), (1, 2), (2, 2)])


# ---------------------------------------------------------------- lengths


def test_moments_agree_with_drawn_lengths() -> None:
    lengths = LogNormalLengths(9.0, 0.8, 500, 40_000)
    draw = Random(1)
    drawn = [x for _ in range(200_000) if 500 <= (x := exp(draw.gauss(9.0, 0.8))) <= 40_000]
    beyond = [x for x in drawn if x > 10_000]
    assert lengths.share_beyond(10_000) == pytest.approx(len(beyond) / len(drawn), rel=0.02)
    square = Polynomial((0.0, 0.0, 1.0))
    assert lengths.mean(square, low=10_000) == pytest.approx(
        sum(x * x for x in beyond) / len(beyond), rel=0.02
    )


def test_beyond_the_ends_nothing_and_everything_is_longer() -> None:
    lengths = LogNormalLengths(9.0, 1.0, 128, 4096)
    assert lengths.share_beyond(1) == pytest.approx(1.0)
    assert lengths.share_beyond(1e9) == 0.0
    assert lengths.mean(Polynomial((1.0,)), low=1e9) == 0.0


def test_lengths_that_cannot_be_are_refused() -> None:
    with pytest.raises(SpecError, match="longest"):
        LogNormalLengths(9.0, 1.0, 4096, 128)
    with pytest.raises(SpecError, match="log_sigma"):
        LogNormalLengths(9.0, 0.0, 128, 4096)


# ---------------------------------------------------------------- offload


def _fleet(link_bytes_per_s: float = 1e10) -> OffloadFleet:
    return OffloadFleet(
        lengths=LogNormalLengths(9.5, 1.0, 128, 131_072),
        remote_prefill_s=Polynomial((0.3, 4e-5)),
        local_prefill_s=Polynomial((0.3, 1.2e-4)),
        decode_rps=0.8,
        kv_bytes=Polynomial((1e8, 2e4)),
        link_bytes_per_s=link_bytes_per_s,
        remote_instances=3,
        local_instances=6,
    )


def test_the_search_over_thresholds_beats_a_grid() -> None:
    fleet = _fleet()
    for prefill in (1, 2, 3):
        grid = max(offload_plan(fleet, t, prefill).throughput_rps for t in range(500, 130_000, 500))
        assert best_threshold(fleet, prefill).throughput_rps >= grid * (1 - 1e-6)


@settings(max_examples=20)
@given(st.floats(1e6, 1e11))
def test_no_more_bytes_leave_than_the_link_carries(link: float) -> None:
    best = best_offload(_fleet(link))
    assert best.egress_bytes_per_s <= link * (1 + 1e-9)


def test_a_slow_link_binds_and_is_named() -> None:
    assert offload_plan(_fleet(link_bytes_per_s=1e6), 1000, 3).binding == "link"


# ---------------------------------------------------------------- queueing


@given(st.floats(1e-3, 1.0), shares)
def test_a_faster_service_waits_less_and_an_idle_one_not_at_all(service_s: float, load: float) -> None:
    rate = load / service_s
    assert md1_ttft_s(service_s, 0.0) == service_s
    assert md1_ttft_s(service_s, rate) >= two_stage_ttft_s(service_s, rate) >= service_s
    assert tensor_parallel_ttft_s(service_s, rate, 2.0) <= md1_ttft_s(service_s, rate)
    assert tensor_parallel_ttft_s(service_s, rate, 1.0) == pytest.approx(md1_ttft_s(service_s, rate))


def test_an_overloaded_queue_has_no_mean() -> None:
    with pytest.raises(SpecError, match="stay below 10"):
        md1_ttft_s(0.1, 10.0)
    with pytest.raises(SpecError, match="service_s"):
        md1_ttft_s(-1.0, 1.0)


def test_replicas_round_up() -> None:
    assert [replicas(rate, 2.0) for rate in (0.0, 2.0, 2.1)] == [0, 1, 2]


# ---------------------------------------------------------------- budgets


def test_equal_budgets_buy_whole_machines() -> None:
    assert equal_machines(40, 44.0, 24.8) == 70
    assert machines_for(3 * 0.1, 0.1) == 3


def test_a_cap_above_full_power_is_refused() -> None:
    with pytest.raises(SpecError, match="capped"):
        cap_pool("decode", 3, 3, 44.0, 45.0)
    with pytest.raises(SpecError, match="power"):
        MachineUnits(power=0.0, cost=1.0)


# ---------------------------------------------------------------- matching


@given(st.floats(0.01, 100.0))
def test_small_ratios_are_near_and_none_smaller_is(exact: float) -> None:
    num, den = smallest_ratio(exact)
    assert abs(num / den / exact - 1) <= 0.03
    for total in range(2, num + den):
        for n in range(1, total):
            assert abs(n / (total - n) / exact - 1) > 0.03


def test_pairs_beyond_a_limit_are_left_out_and_the_rest_ranked() -> None:
    prefill = [PrefillOption("fast", 4, 8.0, 0.5), PrefillOption("late", 1, 4.0, 9.0)]
    decode = [DecodeOption("slow", 1, 900.0, 0.2), DecodeOption("ok", 1, 500.0, 0.02)]
    found = match_rates(prefill, decode, 101, first_token_limit_s=1.0, step_limit_s=0.05)
    assert [(pair.prefill.name, pair.decode.name) for pair in found] == [("fast", "ok")]
    assert (found[0].prefill_instances, found[0].decode_instances, found[0].rps) == (5, 8, 40.0)
    assert found[0].rps_per_chip == pytest.approx(40 / 28)


def test_few_chips_lose_to_rounding() -> None:
    prefill, decode = PrefillOption("p", 1, 10.0, 0.1), DecodeOption("d", 1, 700.0, 0.02)
    small = best_within(prefill, decode, 101, 2)
    large = best_within(prefill, decode, 101, 64)
    assert small.rps_per_chip < 0.9 * large.rps_per_chip
    with pytest.raises(SpecError, match="chips: 1"):
        best_within(prefill, decode, 101, 1)


# ---------------------------------------------------------------- stranding


@given(shares, shares)
def test_a_split_keeps_all_of_its_own_workload_and_less_of_another(mine: float, other: float) -> None:
    row = regret_matrix({"mine": mine, "other": other})[0]
    assert row.kept["mine"] == pytest.approx(1.0)
    assert row.worst <= 1.0 + 1e-12


@given(shares, shares, st.floats(0, 1))
def test_the_flexible_share_found_is_enough_and_less_is_not(
    split: float, served: float, wanted: float
) -> None:
    needed = flexible_needed(split, served, wanted)
    assert 0 <= needed <= 1 + 1e-9
    assert with_flexible(split, served, min(1.0, needed)) >= wanted - 1e-9
    if needed > 1e-3:
        assert with_flexible(split, served, needed * 0.99) < wanted


def test_no_workload_is_no_matrix() -> None:
    with pytest.raises(SpecError, match="shares"):
        regret_matrix({})
