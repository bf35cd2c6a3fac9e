"""Published figures, as far as they take little time; `make acceptance` has all."""

from __future__ import annotations

from pathlib import Path

import pytest

from diptych.planning.acceptance import (
    coder,
    distserve_goodput,
    plane_coder,
    plane_distserve,
    plane_machines,
    regimes,
    splitwise_fleet,
)
from diptych.planning.acceptance.plane import with_slo
from diptych.planning.acceptance.row import failures
from diptych.planning.acceptance.rules.coder import coder_requests, run_combined, run_split
from diptych.planning.acceptance.rules.goodput import WANTED, attainment
from diptych.planning.acceptance.rules.machine import A100, H100, read_machine
from diptych.planning.acceptance.rules.requests import distserve_requests, poisson_requests
from diptych.planning.acceptance.suite import PIECES, Piece
from support.shared_data import data_file

SHORT_CPU_S = 3.0
"""Pieces of at most so many seconds run here as a whole."""
SHORT = [piece for piece in PIECES if piece.cpu_s <= SHORT_CPU_S]


@pytest.fixture(scope="module")
def data() -> Path:
    return data_file("validation").parent


def _name(piece: Piece) -> str:
    return f"{piece.test}-{piece.module}-{piece.function}"


@pytest.mark.parametrize("piece", SHORT, ids=_name)
def test_short_tests_have_no_row_that_fails(piece: Piece, data: Path) -> None:
    rows = piece.rows(data)
    assert rows
    assert [f"{row.quantity}: {row.expected} but {row.obtained}" for row in failures(rows)] == []


# ---------------------------------------------------------------- T3 and T4: goodput lies between two rates

HELD = [
    ("P TP2 + D TP1", 0),
    ("3 × P TP1 + D TP2", 0),
    ("TP1 prefill first", 1),
    ("TP1 chunked 2,048", 1),
    ("TP2 chunked 2,048", 0),
]


@pytest.mark.parametrize(("name", "limits"), HELD)
def test_goodput_of_placements_lies_within_the_tolerance(name: str, limits: int, data: Path) -> None:
    it = next(it for it in distserve_goodput.configurations(data) if it.name == name)
    ttft_s, tpot_s = distserve_goodput.LIMITS[limits]

    def attained(rate: float) -> float:
        return attainment(it.serve(distserve_requests(rate * it.chips, 1)), ttft_s, tpot_s)

    expected = it.expected[limits]
    assert (
        attained(expected - max(0.08 * expected, 0.1))
        >= WANTED
        > attained(expected + max(0.08 * expected, 0.1))
    )


@pytest.mark.parametrize("name", ["P TP2 + D TP2", "TP2 chunked 2,048"])
def test_the_control_plane_holds_what_the_rules_hold(name: str, data: Path) -> None:
    it = next(it for it in distserve_goodput.configurations(data) if it.name == name)
    cluster = with_slo(plane_distserve.specs(data)[name], *distserve_goodput.LIMITS[0])
    rate = it.expected[0] * it.chips
    assert (
        plane_distserve.attained(cluster, 0.92 * rate)
        >= WANTED
        > plane_distserve.attained(cluster, 1.1 * rate)
    )


def test_splitting_pays_only_where_both_limits_are_tight(data: Path) -> None:
    tight, loose = (0.2, 0.05), (1.0, 0.25)

    def attained(candidates: str, name: str, rate: float, limits: tuple[float, float]) -> float:
        chips, serve = getattr(regimes, candidates)(data)[name]
        return attainment(serve(distserve_requests(rate * chips, 1)), *limits, "worst")

    assert attained("split_candidates", "1P2+1D2", 1.28, tight) >= WANTED
    assert attained("unsplit_candidates", "TP2 chunk 256", 1.28 / 2.5, tight) < WANTED
    assert attained("unsplit_candidates", "TP2 chunk 2048", 3.4, loose) >= WANTED
    assert attained("split_candidates", "2P1+2D2", 3.4 * 1.15, loose) < WANTED


# ---------------------------------------------------------------- T5


@pytest.mark.parametrize(
    ("which", "prompts", "rate"), [("code", 36, 187), ("conv", 18, 172), ("conv", 36, 30)]
)
def test_rates_of_machine_splits_lie_within_the_tolerance(
    which: str, prompts: int, rate: int, data: Path
) -> None:
    serve = splitwise_fleet.split(data, H100, 40, prompts)
    unloaded = read_machine(data, A100)

    def holds(share: float) -> bool:
        asked = poisson_requests(
            splitwise_fleet.lengths(data, which), share * rate, 1, splitwise_fleet.SPAN_S
        )
        return splitwise_fleet.within_limits(asked, serve(asked), unloaded)

    assert holds(0.92)
    assert not holds(1.08)


def test_the_plane_tries_rates_up_to_the_tolerance() -> None:
    assert min(plane_machines.SHARES) == 0.92
    assert max(plane_machines.SHARES) == 1.08


# ---------------------------------------------------------------- T13


def test_the_coder_is_served_best_unsplit() -> None:
    asked = coder_requests(1.6, 1, 1000)
    combined = run_combined(asked, coder.GPUS)
    apart = {f"{p}:{d}": run_split(asked, p, d) for p, d in coder.SPLITS}
    assert min(it.e2e_mean_s for it in apart.values()) > combined.e2e_mean_s
    assert apart["2:6"].binding == "prefill"
    assert apart["2:6"].completed_rps == pytest.approx(0.8, rel=0.08)


def test_on_the_plane_no_split_of_the_coder_beats_combined_at_a_low_rate(data: Path) -> None:
    """The narrowest of T13's rates: how often workers tell their load decides there."""
    rows = plane_coder.rows_at(data, 0)
    assert [f"{row.quantity}: {row.expected} but {row.obtained}" for row in failures(rows)] == []
