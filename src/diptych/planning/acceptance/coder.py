"""T13: an agentic coder on eight H20, where splitting must lose.

Knows: expected figures, what the planner must conclude. Does not know: the rules (`rules.coder`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean, median

from diptych.planning.acceptance.row import By, Row, Sheet
from diptych.planning.acceptance.rules.coder import (
    CoderRun,
    coder_requests,
    draw_input,
    prefill_s,
    run_combined,
    run_split,
)

SEEDS = (1, 2, 3, 4, 5)
GPUS = 8
SPLITS = ((6, 2), (4, 4), (2, 6))
RATES = (1.0, 1.3, 1.6)
EXPECTED: dict[float, dict[str, str]] = {
    1.0: {"combined": "0.81 / 2.7", "6:2": "0.91 / 2.8", "4:4": "1.4 / 3.4", "2:6": "saturated"},
    1.3: {"combined": "0.85 / 2.8", "6:2": "1.1 / 3.3", "4:4": "3.7 / 6.0", "2:6": "saturated"},
    1.6: {"combined": "1.0 / 3.0", "6:2": "2.7 / 9.2", "4:4": "24 / 33", "2:6": "saturated at 0.79"},
}
"""TTFT p50 / mean in s; medians over seeds."""
HEAVY_TAILS = (
    "no tolerance is given for the table; the five seeds' own p50 of 6:2 lie at 0.77–0.82 s at 1 req/s and "
    "at 1.9–3.6 s at 1.6 req/s"
)
BEATS = (
    "judged by when calls end, which chains of agents add up. By TTFT alone these rules do not give it at "
    "1 req/s: 6:2 hands over in no time and escapes the ×1.1 on prefill"
)
TTFT_ALONE = (
    "expected 2.8 against 2.7 s, not reproduced. If a prompt waits in line at the decode GPU that had least "
    "in use, 6:2 is behind here (2.94 s) but then has 4.4 s at 1.3 req/s where 3.3 s are expected"
)
PUBLISHED = (
    ("combined: TTFT p50, utilisation", "0.731 s, 30.5 %"),
    ("6:2: TTFT p50, utilisation, decode KV", "1.481 s, 16.9 %, 97 % full; 87.7 % of TTFT is waiting for it"),
    ("completed: combined, 6:2, 4:4, 2:6", "100 %, 59–65 %, 43 %, 14–22 %"),
)


@dataclass(frozen=True, slots=True)
class _Medians:
    p50_s: float
    mean_s: float
    e2e_s: float
    completed_rps: float
    kv_waits: tuple[float, float]
    bindings: tuple[str, ...]


def rows_at(data: Path, index: int) -> list[Row]:
    """One rate of the table."""
    del data
    rate = RATES[index]
    sheet = Sheet("T13", By.RULES)
    asked = [coder_requests(rate, seed) for seed in SEEDS]
    got = {"combined": _medians([run_combined(it, GPUS) for it in asked])}
    for prefills, decodes in SPLITS:
        got[f"{prefills}:{decodes}"] = _medians([run_split(it, prefills, decodes) for it in asked])
    found = [
        sheet.shown(
            f"{rate} req/s, {name}: TTFT p50 / mean, s",
            EXPECTED[rate][name],
            f"{it.p50_s:.2f} / {it.mean_s:.1f}",
            HEAVY_TAILS,
        )
        for name, it in got.items()
    ]
    combined = got["combined"]
    for name in ("6:2", "4:4", "2:6"):
        it = got[name]
        found.append(
            sheet.holds(
                f"{rate} req/s: {name} does not beat combined",
                "calls end later on the mean",
                it.e2e_s >= combined.e2e_s,
                f"{it.e2e_s:.2f} against {combined.e2e_s:.2f} s",
                note=BEATS,
            )
        )
        if it.mean_s < combined.mean_s:
            found.append(
                sheet.shown(
                    f"{rate} req/s: {name} against combined, mean TTFT, s",
                    "later",
                    f"{it.mean_s:.2f} against {combined.mean_s:.2f}",
                    TTFT_ALONE,
                )
            )
    if rate == RATES[-1]:
        found += _at_the_highest(sheet, got)
    return found


def constants(_data: Path) -> list[Row]:
    """Mean prefill seconds, and what was published of the real cluster."""
    draw = Random(1)
    mean_s = fmean(prefill_s(draw_input(draw)) for _ in range(200_000))
    sheet = Sheet("T13", By.RULES)
    note = (
        "a real cluster under its own two-hour trace, which is not public, with caches that depend "
        "on routing; the model here draws lengths independently and takes 85.7 % as cached everywhere"
    )
    return [
        sheet.near("E[T_pre], s", 2.51, mean_s, relative=0.02),
        *(sheet.shown(name, text, "see the rates", note) for name, text in PUBLISHED),
    ]


def _at_the_highest(sheet: Sheet, got: dict[str, _Medians]) -> list[Row]:
    lowest, highest = got["6:2"].kv_waits
    return [
        sheet.near("2:6 saturates at, req/s", 0.80, got["2:6"].completed_rps, relative=0.05),
        sheet.exact("2:6 is held back by", "prefill", _most(got["2:6"].bindings)),
        sheet.exact("6:2 is held back by", "decode KV", _most(got["6:2"].bindings)),
        sheet.shown(
            "6:2: waiting for decode KV, share of TTFT", "40–84 %", f"{lowest:.0%}–{highest:.0%}", HEAVY_TAILS
        ),
        sheet.holds(
            "recommendation",
            "aggregated",
            min(got, key=lambda name: got[name].e2e_s) == "combined",
            "combined ends calls first",
        ),
    ]


def _medians(runs: list[CoderRun]) -> _Medians:
    waits = [run.kv_wait_share for run in runs]
    return _Medians(
        median(run.ttft_p50_s for run in runs),
        median(run.ttft_mean_s for run in runs),
        median(run.e2e_mean_s for run in runs),
        median(run.completed_rps for run in runs),
        (min(waits), max(waits)),
        tuple(run.binding for run in runs),
    )


def _most(names: tuple[str, ...]) -> str:
    return max(sorted(set(names)), key=names.count)
