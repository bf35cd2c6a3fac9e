"""T8: two measured vLLM runs replayed.

Knows: the runs' cards and models, measured and expected figures. Does not know: the scheduler
(`rules.vllm`, and diptych's own).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from diptych.planning.acceptance.files import read_lines
from diptych.planning.acceptance.row import By, Row, Sheet
from diptych.planning.acceptance.rules.card import Card, CardSteps, Shape
from diptych.planning.acceptance.rules.requests import Asked
from diptych.planning.acceptance.rules.vllm import replay

UNBOUNDED_KV_TOKENS = 10**7
"""The second run is limited by its 128 seats; its KV was not logged."""
LIMITS = {"TTFT": 0.08, "TPOT": 0.05, "latency": 0.05, "makespan": 0.05}


class Figures(NamedTuple):
    """Means in ms, makespan in s."""

    ttft_ms: float
    tpot_ms: float
    latency_ms: float
    makespan_s: float


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run."""

    name: str
    folder: str
    steps: CardSteps
    seats: int
    expected: Figures
    reference_error_percent: tuple[float, float, float, float]
    most_running: int


LLAMA_8B = Shape(8.03e9, 32, 4096, 32, 8, 128)
QWEN3_32B = Shape(32.8e9, 64, 5120, 64, 8, 128)
RTX_4090 = Card(bytes_per_s=0.9 * 1008e9, flops=0.9 * 165e12, layer_s=20e-6)
RTX_PRO_6000 = Card(
    bytes_per_s=0.8 * 1597e9, flops=0.7 * 398e12, layer_s=60e-6, bus_bytes_per_s=16e9, all_reduce_s=12e-6
)
"""Constants of the reference replay, kept for any model on the card (latency model, T8)."""
RUNS = (
    Run(
        "RTX 4090, Llama-3.1-8B",
        "RTX4090_Llama-3.1-8B",
        CardSteps(LLAMA_8B, RTX_4090, 41_408),
        256,
        Figures(65_457, 32.45, 86_578, 183.6),
        (3.4, 0.7, 2.8, 2.0),
        49,
    ),
    Run(
        "2 × RTX PRO 6000, Qwen3-32B",
        "RTXPRO6000_Qwen3-32B",
        CardSteps(QWEN3_32B, RTX_PRO_6000, UNBOUNDED_KV_TOKENS, cards=2),
        128,
        Figures(36_905, 80.31, 90_408, 159.7),
        (1.6, -3.8, -1.6, -0.8),
        128,
    ),
)


def measured(data: Path, run: Run) -> tuple[list[Asked], Figures]:
    """The requests by the time they were queued, and what the real engine did."""
    lines = read_lines(data, f"validation/llmservingsim_vllm/{run.folder}/requests.jsonl")
    lines.sort(key=lambda line: line["queued_ts"])
    began_s = lines[0]["queued_ts"]
    asked = [Asked(it["queued_ts"] - began_s, it["input_toks"], it["output_toks"]) for it in lines]
    return asked, Figures(
        1e3 * fmean(it["first_token_ts"] - it["queued_ts"] for it in lines),
        1e3 * fmean((it["last_token_ts"] - it["first_token_ts"]) / (it["output_toks"] - 1) for it in lines),
        1e3 * fmean(it["last_token_ts"] - it["queued_ts"] for it in lines),
        max(it["last_token_ts"] for it in lines) - began_s,
    )


def rows(data: Path) -> list[Row]:
    """Both runs by the rules."""
    found: list[Row] = []
    for run in RUNS:
        asked, real = measured(data, run)
        done = replay(asked, run.steps, run.seats)
        got = Figures(
            1e3 * fmean(it.ttft_s for it in done.served),
            1e3 * fmean(it.mean_gap_s for it in done.served if it.mean_gap_s is not None),
            1e3 * fmean(it.e2e_s for it in done.served),
            done.makespan_s,
        )
        found += [
            Sheet("T8", By.DATA).near(f"{run.name}: measured {name}", stated, read, relative=0.001)
            for name, stated, read in zip(LIMITS, run.expected, real, strict=True)
        ]
        found += compared(Sheet("T8", By.RULES), run, real, got)
        found += [
            Sheet("T8", By.RULES).near(
                f"{run.name}: error of the reference replay in {name}, %",
                error,
                100 * (value / truth - 1),
                absolute=0.2,
            )
            for name, error, value, truth in zip(LIMITS, run.reference_error_percent, got, real, strict=True)
        ]
        found.append(
            Sheet("T8", By.RULES).near(
                f"{run.name}: largest running count",
                run.most_running,
                done.most_running,
                absolute=1,
                note="measured by samples of 1 s",
            )
        )
    return found


def compared(sheet: Sheet, run: Run, real: Figures, got: Figures) -> list[Row]:
    """Four figures against the measured ones."""
    return [
        sheet.near(f"{run.name}: {name}", truth, value, relative=LIMITS[name])
        for name, truth, value in zip(LIMITS, real, got, strict=True)
    ]
