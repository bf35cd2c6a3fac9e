"""T8 on diptych's scheduler: one worker that does both.

Knows: how its limits correspond to vLLM's. Does not know: the reference rules.
"""

from __future__ import annotations

from pathlib import Path

from diptych.domain.cluster import LimitsSpec
from diptych.domain.worker import Role
from diptych.planning.acceptance.plane import PATIENT, pool, run, spec
from diptych.planning.acceptance.row import By, Row, Sheet
from diptych.planning.acceptance.rules.requests import Asked
from diptych.planning.acceptance.vllm_runs import RUNS, Figures, Run, compared, measured

AS_VLLM = PATIENT.model_copy(update={"output_reserve_tokens": 1})
"""vLLM admits a prompt for which its own blocks are free and reserves nothing for its output."""
DEFAULT_NOTE = (
    "with diptych's default a request is placed where its prompt and 256 tokens of output fit: fewer "
    "preemptions and a shorter TPOT than the engine that was measured"
)


def rows(data: Path) -> list[Row]:
    """Both runs."""
    sheet = Sheet("T8", By.PLANE)
    found: list[Row] = []
    for it in RUNS:
        asked, real = measured(data, it)
        found += compared(sheet, it, real, _figures(it, asked, AS_VLLM))
        default = _figures(it, asked, PATIENT)
        found.append(
            sheet.shown(f"{it.name}: TPOT, output reserved", real.tpot_ms, default.tpot_ms, DEFAULT_NOTE)
        )
    return found


def _figures(it: Run, asked: list[Asked], limits: LimitsSpec) -> Figures:
    cluster = spec(pool("engine", Role.MIXED, seats=it.seats)).model_copy(update={"limits": limits})
    done = run(cluster, asked, {"engine": it.steps})
    assert done.completed == len(asked), f"{it.name}: {done.completed} of {len(asked)} completed"
    means = (done.ttft_s.mean, done.tpot_s.mean, done.e2e_s.mean)
    ttft_s, tpot_s, e2e_s = (value or 0.0 for value in means)
    return Figures(1e3 * ttft_s, 1e3 * tpot_s, 1e3 * e2e_s, done.makespan_s)
