"""`python -m diptych.planning.fit --data DIR`: fit the named efficiencies again, or score a file with those
that
ship.

Knows: the command's options, where the result goes. Does not know: formulas.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

from diptych.domain.errors import SpecError
from diptych.planning.fit import report
from diptych.planning.fit.least_squares import By, fit, left_out, predicted
from diptych.planning.fit.load import data_of
from diptych.planning.fit.priors import PCIE, priors
from diptych.planning.fit.rows import FILE
from diptych.planning.library import load_efficiencies

OUT = Path(__file__).parents[2] / "performance" / "data" / "efficiencies" / "silicon.toml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m diptych.planning.fit", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with validation/…")
    parser.add_argument("--out", type=Path, default=OUT, help="the TOML file to write")
    parser.add_argument(
        "--score", type=Path, help="a CSV of the same columns: score the shipped constants, fit nothing"
    )
    parser.add_argument(
        "--leave",
        choices=("group", "architecture", "chip", "engine"),
        default="group",
        help="what is left out at a time; anything but 'group' prints and writes nothing",
    )
    chosen = parser.parse_args(arguments)
    try:
        return _score(chosen.score) if chosen.score else _fit(chosen.data, chosen.out, chosen.leave)
    except SpecError as error:
        print(error, file=sys.stderr)
        return 2


def _score(path: Path) -> int:
    data = data_of(path)
    seen = predicted(load_efficiencies().value, data)
    print(report.table(data, seen, seen))
    print(report.summary("shipped", report.errors(data, seen)))
    return 0


def _fit(folder: Path, out: Path, by: By) -> int:
    data = data_of(folder / FILE)
    rows = (*data.whole.rows, *data.decode.rows)
    constants = priors((row.model.architecture for row in rows), (row.chip.name for row in rows))
    whole = fit(data, constants)
    inside, outside = predicted(whole.value(), data), left_out(data, whole, by=by)
    print(report.table(data, inside, outside))
    for name, seen in (("in-sample", inside), ("left out", outside)):
        print(report.summary(name, report.errors(data, seen)))
    if by != "group":
        return 0
    print(f"{len(constants)} constants; {len(rows)} rows; wrote {out}")
    source = f"{FILE}, rows of quality ok (aiconfigurator's copy of public InferenceX dumps)"
    whole = whole.with_fixed(PCIE)
    text = report.toml(whole, data, inside, outside, source=source, date=datetime.date.today().isoformat())
    out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
