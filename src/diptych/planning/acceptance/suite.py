"""Every test of the list as pieces of work, and running them on some processes.

Knows: which pieces there are and which are long. Does not know: what they compute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

from diptych.domain.errors import SpecError
from diptych.planning.acceptance.row import By, Row, Sheet

Rows = Callable[[Path], list[Row]]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows that are made together, in a process of their own: a function of this package by name."""

    test: str
    module: str
    function: str = "rows"
    index: int | None = None
    cpu_s: float = 1.0
    """About how long it takes (seconds of CPU, 2026): long ones start first."""

    def rows(self, data: Path) -> list[Row]:
        """Run it. A file that is not there makes an ``absent`` row."""
        function = getattr(import_module(f"{__package__}.{self.module}"), self.function)
        make: Rows = function if self.index is None else partial(function, index=self.index)
        try:
            return make(data)
        except SpecError as error:
            return [Sheet(self.test, By.DATA).absent(self.module, str(error))]


PIECES: tuple[Piece, ...] = (
    Piece("T1", "prfaas"),
    Piece("T2", "distserve_closed", cpu_s=2),
    Piece("T3", "distserve_goodput", cpu_s=18),
    Piece("T3", "plane_distserve", cpu_s=150),
    *(Piece("T4", "regimes", "rows_for", index, cpu_s=15) for index in range(8)),
    *(Piece("T4", "plane_regimes", "rows_for", index, cpu_s=10) for index in range(8)),
    Piece("T5", "fleet_tables", "medians"),
    Piece("T5", "fleet_tables", "budgets"),
    Piece("T5", "splitwise_fleet", "h100", cpu_s=23),
    Piece("T5", "splitwise_fleet", "mixed", cpu_s=7),
    Piece("T5", "splitwise_fleet", "a100", cpu_s=19),
    Piece("T5", "splitwise_fleet", "published_lookup", cpu_s=12),
    *(Piece("T5", "plane_machines", "rows_for", index, cpu_s=50) for index in range(2)),
    Piece("T6", "fleet_tables", "caps"),
    Piece("T7", "others", "silicon_shipped", cpu_s=10),
    Piece("T7", "others", "silicon_left_out", cpu_s=60),
    Piece("T8", "vllm_runs"),
    Piece("T8", "plane_vllm", cpu_s=2),
    Piece("T9", "prefix"),
    Piece("T10", "ordering", cpu_s=3),
    Piece("T10", "plane_ordering", cpu_s=22),
    Piece("T11", "fleet_tables", "stranding"),
    Piece("T12", "others", "ratios"),
    Piece("T13", "coder", "constants"),
    *(Piece("T13", "coder", "rows_at", index, cpu_s=40) for index in range(3)),
    *(Piece("T13", "plane_coder", "rows_at", index, cpu_s=20) for index in range(3)),
    Piece("§12", "others", "motivating"),
)


def names() -> list[str]:
    """Names of all tests, in order."""
    return sorted({piece.test for piece in PIECES}, key=_number)


def chosen(only: Sequence[str]) -> list[Piece]:
    """The pieces of these tests; all for an empty choice. Raises `SpecError` for a name that is none."""
    known = names()
    if wrong := [name for name in only if name not in known]:
        raise SpecError(f"--only: {wrong[0]} is no test; the tests are {', '.join(known)}")
    return [piece for piece in PIECES if not only or piece.test in only]


def run(pieces: Sequence[Piece], data: Path, processes: int) -> Iterator[tuple[Piece, list[Row]]]:
    """Each piece with its rows, as they get done."""
    longest_first = sorted(pieces, key=lambda piece: -piece.cpu_s)
    if processes == 1:
        for piece in longest_first:
            yield piece, piece.rows(data)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(piece.rows, data): piece for piece in longest_first}
        for done in as_completed(waiting):
            yield waiting[done], done.result()


def in_order(results: Sequence[tuple[Piece, list[Row]]]) -> list[Row]:
    """All rows by test, in the order of the list."""
    by_piece = dict(results)
    ordered = sorted(PIECES, key=lambda piece: _number(piece.test))
    return [row for piece in ordered for row in by_piece.get(piece, [])]


def _number(test: str) -> tuple[bool, int]:
    """T1 … T13, then the sections."""
    return (test.startswith("§"), int(test.lstrip("T§")))
