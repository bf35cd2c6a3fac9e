"""The command around the tests: tolerances, statuses, flags, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from diptych.domain.errors import SpecError
from diptych.planning.acceptance.row import By, Row, Sheet, Status, failures
from diptych.planning.acceptance.rules.goodput import goodput_per_chip, highest
from diptych.planning.acceptance.suite import PIECES, Piece, chosen, in_order, names, run
from diptych.planning.acceptance.table import as_json, print_table, summary

SHEET = Sheet("T1", By.CLOSED)


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "diptych.planning.acceptance", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (SHEET.near("q", 100, 104, relative=0.05), Status.PASS),
        (SHEET.near("q", 100, 106, relative=0.05), Status.FAIL),
        (SHEET.near("q", 0.05, 0.14, relative=0.08, absolute=0.1), Status.PASS),
        (SHEET.near("q", -3.0, -3.04, absolute=0.05), Status.PASS),
        (SHEET.exact("q", "3+5", "4+4"), Status.FAIL),
        (SHEET.at_most("q", 1.0, 1.0), Status.PASS),
        (SHEET.at_least("q", 1.0, 0.99), Status.FAIL),
        (SHEET.holds("q", "true", False), Status.FAIL),
        (SHEET.shown("q", 1, 2, "why"), Status.SHOWN),
        (SHEET.absent("q", "why"), Status.ABSENT),
    ],
)
def test_statuses(row: Row, status: Status) -> None:
    assert row.status is status
    assert failures([row]) == ([row] if status is Status.FAIL else [])


def test_the_table_says_how_many_failed_and_why_a_row_is_no_test() -> None:
    console = Console(width=160, record=True, file=StringIO())
    rows = [SHEET.exact("a", 1, 2), SHEET.shown("b", 1, 2, "needs lengths that are not public")]
    print_table(rows, console)
    text = console.export_text()
    assert "FAIL" in text
    assert "[1] needs lengths that are not public" in text
    assert summary(rows) == "1 FAIL, 1 shown"
    assert json.loads(as_json(rows))["passed"] is False


def test_every_piece_names_a_function_that_is_there() -> None:
    from importlib import import_module

    for piece in PIECES:
        assert callable(getattr(import_module(f"diptych.planning.acceptance.{piece.module}"), piece.function))
    assert names()[0] == "T1"
    assert {f"T{n}" for n in range(1, 14)} <= set(names())


def test_rows_come_in_the_order_of_the_list_whatever_ends_first(tmp_path: Path) -> None:
    pieces = [
        piece
        for piece in PIECES
        if piece.module in ("prfaas", "fleet_tables") and piece.function != "medians"
    ]
    results = list(run(pieces, tmp_path, 1))[::-1]
    names = [row.test for row in in_order(results)]
    assert names == sorted(names, key=lambda name: int(name[1:]))


def test_data_that_is_not_there_makes_a_row_that_says_so(tmp_path: Path) -> None:
    (row,) = Piece("T9", "prefix").rows(tmp_path)
    assert row.status is Status.ABSENT
    assert "traces/mooncake_fast25" in row.note


def test_an_unknown_test_is_refused() -> None:
    with pytest.raises(SpecError, match="T99 is no test"):
        chosen(["T99"])


def test_bad_usage_ends_with_2_and_one_line(tmp_path: Path) -> None:
    done = _command("--data", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("--data:")
    assert len(done.stderr.splitlines()) == 1


def test_tests_without_data_pass_as_json(tmp_path: Path) -> None:
    (tmp_path / "validation").mkdir()
    done = _command("--data", str(tmp_path), "--only", "t1,T6", "--json", "--processes", "1")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["passed"] is True
    assert {row["test"] for row in result["rows"]} == {"T1", "T6"}


def test_bisection_finds_the_edge() -> None:
    assert highest(lambda rate: rate <= 3.3, 8.0, 0.02) == pytest.approx(3.3, abs=0.02)
    assert goodput_per_chip(lambda rate, seed: float(rate <= 2 * seed), 2) == pytest.approx(1.5, abs=0.02)


def test_a_candidate_that_cannot_beat_the_best_is_not_searched() -> None:
    asked: list[float] = []

    def attained(rate: float, seed: int) -> float:
        asked.append(rate)
        return float(rate <= 1.0)

    assert goodput_per_chip(attained, 1, beat=2.0) == 0.0
    assert asked == [2.0, 2.0]
