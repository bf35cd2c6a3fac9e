"""The fit's results as a data file and as tables of text.

Knows: the TOML form that `performance.efficiencies` parses, error figures by group. Does not know: how to
fit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from diptych.planning.fit.least_squares import Data, Fit, Predicted

Array: TypeAlias = Any
"""A numpy array of floats (or truth values); the formulas take it where they take a float."""


class Errors(NamedTuple):
    """Absolute relative errors over rows, as shares."""

    tpot_mean: float
    tpot_median: float
    ttft_mean: float
    ttft_median: float
    split_mean: float
    split_median: float
    literal_mean: float
    literal_median: float
    """Disaggregated rows at B = all clients over the decode ranks."""


def errors(data: Data, seen: Predicted) -> Errors:
    """Mean and median absolute percentage errors."""
    import numpy as np

    found: list[float] = []
    for error in _apes(data, seen):
        found += [float(np.mean(error)), float(np.median(error))] if len(error) else [0.0, 0.0]
    return Errors(*found)


def group_errors(data: Data, seen: Predicted) -> dict[str, tuple[int, float, float, float]]:
    """Group -> rows, TPOT MAPE, worst TPOT error, TTFT median; disaggregated rows have groups of their
    own."""
    import numpy as np

    tpot, ttft, split, _ = _apes(data, seen)
    found: dict[str, tuple[int, float, float, float]] = {}
    for group in np.unique(data.whole.group):
        rows = data.whole.group == group
        worst, mean = float(tpot[rows].max()), float(tpot[rows].mean())
        found[str(group)] = (int(rows.sum()), mean, worst, float(np.median(ttft[rows])))
    for group in np.unique(data.decode.group):
        rows = data.decode.group == group
        found[f"{group} split"] = (
            int(rows.sum()),
            float(split[rows].mean()),
            float(split[rows].max()),
            float("nan"),
        )
    return found


def table(data: Data, inside: Predicted, outside: Predicted) -> str:
    """Per group: rows, in-sample and left-out errors in percent."""
    first, second = group_errors(data, inside), group_errors(data, outside)
    lines = [f"{'group':40}{'rows':>5}{'TPOT in':>9}{'left out':>9}{'worst':>7}{'TTFT in':>9}{'left out':>9}"]
    for group, (rows, mean, _, ttft) in first.items():
        _, out, worst, out_ttft = second[group]
        cells = "".join(f"{100 * x:{width}.1f}" for x, width in ((mean, 9), (out, 9), (worst, 7)))
        tail = "" if ttft != ttft else f"{100 * ttft:9.1f}{100 * out_ttft:9.1f}"
        lines.append(f"{group:40}{rows:5}{cells}{tail}")
    return "\n".join(lines)


def summary(name: str, it: Errors) -> str:
    """One line of percentages."""
    return (
        f"{name:12} TPOT MAPE {100 * it.tpot_mean:.2f} median {100 * it.tpot_median:.2f}; "
        f"TTFT median {100 * it.ttft_median:.2f}; disaggregated TPOT MAPE {100 * it.split_mean:.2f} "
        f"median {100 * it.split_median:.2f} "
        f"(B = clients/ranks: {100 * it.literal_mean:.2f}, {100 * it.literal_median:.2f})"
    )


def toml(fit: Fit, data: Data, inside: Predicted, outside: Predicted, *, source: str, date: str) -> str:
    """The data file."""
    first, second = errors(data, inside), errors(data, outside)
    groups = group_errors(data, outside)
    count = len(data.whole.rows) + len(data.decode.rows)
    worst = max(worst for _, _, worst, _ in group_errors(data, inside).values())
    head = {
        "tpot_in_sample": first.tpot_mean,
        "tpot_in_sample_median": first.tpot_median,
        "tpot_left_out": second.tpot_mean,
        "tpot_left_out_median": second.tpot_median,
        "ttft_in_sample_median": first.ttft_median,
        "ttft_left_out_median": second.ttft_median,
        "split_tpot_in_sample": first.split_mean,
        "split_tpot_left_out": second.split_mean,
        "worst_row": worst,
    }
    lines = [
        "# Written by `python -m diptych.planning.fit --data DIR`; do not edit.",
        "# Shared by all constants: the measurement they were fitted to, its rows, the date and the errors.",
        f"source = {json.dumps(source)}",
        f"rows = {count}",
        f'date = "{date}"',
        "",
        "[errors]",
        *(f"{name} = {value:.4f}" for name, value in head.items()),
        "",
        "[groups]  # mean TPOT error of each group when it was left out of the fit",
        *(f"{json.dumps(name)} = {mean:.4f}" for name, (_, mean, _, _) in groups.items()),
    ]
    return "\n".join([*lines, *_constants(fit.value(), fit), ""])


def _constants(value: Callable[[str], float], fit: Fit) -> list[str]:
    lines: list[str] = []
    for prior in fit.priors:
        lines += [
            "",
            f"[constants.{json.dumps(prior.name)}]",
            f"value = {value(prior.name):.5g}",
            f'unit = "{prior.unit}"',
            f"about = {json.dumps(prior.about, ensure_ascii=False)}",
            f"prior = {prior.mean:g}",
            f"spread = {prior.spread:g}",
        ]
    return lines


def _apes(data: Data, seen: Predicted) -> tuple[Array, Array, Array, Array]:
    import numpy as np

    def ape(got: Any, want: Any) -> Array:
        return np.abs(got / want - 1.0)

    whole, decode = data.whole, data.decode
    return (
        ape(seen.tpot_s, whole.tpot_s),
        ape(seen.ttft_s, whole.ttft_s),
        ape(seen.split_tpot_s, decode.tpot_s),
        ape(seen.split_step_s, decode.tpot_s),
    )
