"""T7, T12 and §12: fits of measured silicon, ratios over token latency, the motivating claims.

Knows: how the planner's own statements become rows. Does not know: how they are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diptych.planning.acceptance.row import By, Row, Status
from diptych.planning.closed import buzz, claims
from diptych.planning.closed.checked import Checked
from diptych.planning.library import load_catalogue


def silicon_shipped(data: Path) -> list[Row]:
    """T7: the constants that ship, over the rows that they were fitted to; two-parameter fits."""
    from diptych.planning.fit import silicon  # loads numpy

    return _rows("T7", By.DATA, [*silicon.shipped(data), *silicon.tables(data)])


def silicon_left_out(data: Path) -> list[Row]:
    """T7: fits that leave a group out."""
    from diptych.planning.fit import silicon  # loads numpy

    return _rows("T7", By.DATA, silicon.refitted(data))


def ratios(_data: Path) -> list[Row]:
    """T12."""
    return _rows("T12", By.CLOSED, buzz.evaluate())


def motivating(_data: Path) -> list[Row]:
    """§12."""
    return _rows("§12", By.CLOSED, claims.evaluate(load_catalogue()))


def _rows(test: str, by: By, statements: Sequence[Checked]) -> list[Row]:
    return [_row(test, by, it) for it in statements]


def _row(test: str, by: By, it: Checked) -> Row:
    if it.kind == "required" and it.passed is not None:
        status = Status.PASS if it.passed else Status.FAIL
    else:
        status = Status.SHOWN
    reached = {True: "wanted, reached", False: "wanted, not reached", None: ""}[it.passed]
    note = "; ".join(filter(None, (reached if it.kind == "wanted" else "", it.note)))
    return Row(test, it.name, it.expected, it.obtained, it.tolerance, status, by, note)
