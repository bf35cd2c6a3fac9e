"""T7: the measured silicon rows, as statements with expected and obtained figures.

Knows: T7's limits. Does not know: how the table is printed.
"""

from __future__ import annotations

from pathlib import Path

from diptych.planning.closed.checked import Checked, at_most, near, shown
from diptych.planning.fit.least_squares import fit, left_out, predicted
from diptych.planning.fit.load import data_of
from diptych.planning.fit.priors import priors
from diptych.planning.fit.report import Errors, errors, group_errors
from diptych.planning.fit.rows import FILE, read_csv
from diptych.planning.fit.two_parameters import (
    CASES,
    CONCURRENCIES,
    RATIOS,
    split_ratio,
    two_parameters,
)
from diptych.planning.library import load_efficiencies

DISAGGREGATED_POINTS = 0.05
"""T7: the same limits and five points more."""


def evaluate(data_dir: Path) -> list[Checked]:
    """All statements of T7; takes about 40 s, most of it the fits that leave a group out."""
    return [*shipped(data_dir), *refitted(data_dir), *tables(data_dir)]


def shipped(data_dir: Path) -> list[Checked]:
    """Errors of the constants that ship, over the rows that they were fitted to."""
    data = data_of(data_dir / FILE)
    it = errors(data, predicted(load_efficiencies().value, data))
    limits = _limits("in-sample", it, tpot=(0.12, 0.09), ttft=(0.30, None))
    return [
        *limits,
        at_most("in-sample: disaggregated TPOT median", 0.09 + DISAGGREGATED_POINTS, it.split_median),
    ]


def refitted(data_dir: Path) -> list[Checked]:
    """Errors of groups that a new fit does not see; and that a new fit gives the constants that ship."""
    data, known = data_of(data_dir / FILE), load_efficiencies()
    rows = (*data.whole.rows, *data.decode.rows)
    whole = fit(data, priors((r.model.architecture for r in rows), (r.chip.name for r in rows)))
    value = whole.value()
    moved = max(abs(value(prior.name) / known.value(prior.name) - 1) for prior in whole.priors)
    outside = left_out(data, whole)
    it = errors(data, outside)
    found = _limits("left out", it, tpot=(0.15, None), ttft=(0.35, None))
    found += [
        at_most("left out: TPOT MAPE, goal", 0.10, it.tpot_mean, "wanted"),
        at_most("left out: TTFT median, goal", 0.25, it.ttft_median, "wanted"),
        at_most("a new fit moves no constant by more than", 0.05, moved),
    ]
    for group, (count, mean, _, ttft) in group_errors(data, outside).items():
        tail = "" if ttft != ttft else f", TTFT median {ttft:.3f}"
        found.append(shown(f"left out: {group}", f"TPOT MAPE {mean:.3f}{tail}", f"{count} rows"))
    return found


def tables(data_dir: Path) -> list[Checked]:
    """§4's two-parameter fits and the ratios of T7."""
    rows = read_csv(data_dir / FILE)
    found: list[Checked] = []
    for system, precision, engine, cells in CASES:
        for concurrency, (eta, layer_us) in zip(CONCURRENCIES, cells, strict=True):
            got = two_parameters(rows, system, precision, engine, concurrency)
            name = f"{system} {precision} {engine}, concurrency {concurrency}"
            found.append(near(f"{name}: η", eta, round(got.eta, 3), absolute=0.03))
            found.append(near(f"{name}: fixed µs per layer", layer_us, round(got.layer_us, 1), absolute=5.0))
    for user, ratio in RATIOS:
        name = f"deepseek-v3|b200_sxm|fp8 8,192/1,024: disagg ÷ agg at ≥ {user} tok/s/user"
        note = "confounded (wide expert parallelism on one side): a regression, never a headline"
        found.append(near(name, ratio, round(split_ratio(rows, user), 2), note=note))
    return found


def _limits(
    name: str, it: Errors, *, tpot: tuple[float, float | None], ttft: tuple[float, float | None]
) -> list[Checked]:
    found = [at_most(f"{name}: TPOT MAPE", tpot[0], it.tpot_mean)]
    if tpot[1] is not None:
        found.append(at_most(f"{name}: TPOT median", tpot[1], it.tpot_median))
    literal = "at B = clients over decode ranks, also where prefill cannot feed so many"
    more = tpot[0] + DISAGGREGATED_POINTS
    found += [
        at_most(f"{name}: TTFT median", ttft[0], it.ttft_median),
        at_most(f"{name}: disaggregated TPOT MAPE", more, it.literal_mean, note=literal),
        at_most(f"{name}: disaggregated TPOT MAPE, B fed by prefill", more, it.split_mean),
        shown(f"{name}: TTFT MAPE", round(it.ttft_mean, 3), "a few rows wait minutes for memory"),
    ]
    return found
