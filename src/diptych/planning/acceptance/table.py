"""The rows as a table, and as one JSON object.

Knows: columns. Does not know: tests.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from diptych.planning.acceptance.row import Row, Status

COLOURS = {Status.PASS: "green", Status.FAIL: "bold red", Status.SHOWN: "dim", Status.ABSENT: "yellow"}


def print_table(rows: Sequence[Row], console: Console) -> None:
    """One line a row, then the notes that say why a figure is no test, then the sums."""
    table = Table(pad_edge=False, box=None, header_style="bold")
    for name in ("test", "quantity", "expected", "obtained", "tolerance", "by", "result"):
        table.add_column(
            name, overflow="fold", justify="right" if name in ("expected", "obtained") else "left"
        )
    notes: list[str] = []
    for row in rows:
        mark = ""
        if row.note:
            if row.note not in notes:
                notes.append(row.note)
            mark = f" [{notes.index(row.note) + 1}]"
        table.add_row(
            row.test,
            row.quantity + mark.replace("[", r"\["),
            _text(row.expected),
            _text(row.obtained),
            row.tolerance,
            row.by.value,
            f"[{COLOURS[row.status]}]{row.status.value}[/]",
        )
    console.print(table)
    for number, note in enumerate(notes, start=1):
        console.print(f"[{number}] {note}", markup=False, highlight=False)
    console.print(summary(rows), highlight=False)


def summary(rows: Sequence[Row]) -> str:
    """How many rows came out how."""
    counts = Counter(row.status for row in rows)
    return ", ".join(f"{counts[status]} {status.value}" for status in Status if counts[status])


def as_json(rows: Sequence[Row]) -> str:
    """``{"rows": […], "passed": true}``"""
    passed = not any(row.status is Status.FAIL for row in rows)
    return json.dumps({"passed": passed, "rows": [row.as_json() for row in rows]}, indent=1)


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.5g}" if isinstance(value, float) else str(value)
