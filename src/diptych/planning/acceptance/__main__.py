"""`python -m diptych.planning.acceptance`, or `make acceptance`.

Knows: flags, progress. Does not know: tests.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from diptych.domain.errors import SpecError
from diptych.planning.acceptance.files import checked, default_folder
from diptych.planning.acceptance.row import Row, failures
from diptych.planning.acceptance.suite import Piece, chosen, in_order, run
from diptych.planning.acceptance.table import as_json, print_table

USUAL_PROCESSES = 2


def main() -> int:
    """0: every row that could be tried passed; 1: one failed; 2: bad usage."""
    asked = _arguments()
    try:
        data = checked(asked.data)
        pieces = chosen([name.strip().upper() for name in asked.only.split(",") if name.strip()])
        if asked.processes < 1:
            raise SpecError(f"--processes: {asked.processes} is too few; give at least 1")
    except SpecError as error:
        print(error, file=sys.stderr)
        return 2
    results = _with_progress(pieces, data, asked.processes)
    rows = in_order(results)
    if asked.json:
        print(as_json(rows))
    else:
        console = Console(width=None if sys.stdout.isatty() else 160)
        print_table(rows, console)
    return 1 if failures(rows) else 0


def _with_progress(pieces: list[Piece], data: Path, processes: int) -> list[tuple[Piece, list[Row]]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    results: list[tuple[Piece, list[Row]]] = []
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("acceptance", total=len(pieces))
        for piece, rows in run(pieces, data, processes):
            results.append((piece, rows))
            progress.update(task, advance=1, description=f"acceptance, last {piece.test}")
    return results


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make acceptance", description="The planner against published figures."
    )
    parser.add_argument(
        "--data", type=Path, default=default_folder(), help="folder with traces/ and validation/"
    )
    parser.add_argument("--only", default="", help="tests, by comma: T3,T5 (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--processes", type=int, default=min(USUAL_PROCESSES, os.cpu_count() or 1))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
