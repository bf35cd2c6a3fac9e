"""The decode fits of two parameters in latency model §4, and T7's ratios of disaggregated to aggregated rows.

Knows: their definitions. Does not know: the roofline, which supersedes the two parameters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import linear_regression, median
from typing import NamedTuple

CASES = (
    ("h200_sxm", "fp8", "trtllm", ((0.94, 51), (0.87, 61), (0.80, 113))),
    ("h200_sxm", "fp8", "vllm", ((0.96, 75), (0.89, 88), (0.64, 112))),
    ("h100_sxm", "fp8", "vllm", ((0.96, 79), (0.98, 102), (0.73, 135))),
    ("b200_sxm", "fp8", "trtllm", ((0.85, 52), (0.85, 59), (0.77, 86))),
    ("b200_sxm", "fp8", "vllm", ((0.79, 63), (0.81, 75), (0.89, 132))),
    ("b200_sxm", "fp4", "trtllm", ((0.71, 63), (0.73, 70), (0.82, 101))),
)
"""Chip, precision, engine -> (η, fixed µs per layer) at each of `CONCURRENCIES`, as §4 prints them."""

CONCURRENCIES = (4, 16, 64)

BANDWIDTH = {"h100_sxm": 3.35e12, "h200_sxm": 4.8e12, "b200_sxm": 8e12}
"""§4's own figures; the catalogue has 7.7 TB/s for B200."""

LAYERS, WEIGHTS, CONTEXT, TOKEN_BYTES = 80, 70.6e9, 1536, 163_840
"""Llama-3.1-70B; prompt 1,024 plus half of 1,024 output tokens; fp8 KV."""

FP4_BYTES = 0.5625


class TwoParameters(NamedTuple):
    """One fit."""

    eta: float
    layer_us: float
    worst: float
    """Largest relative error of a point."""


def two_parameters(
    rows: Sequence[dict[str, str]], system: str, precision: str, engine: str, concurrency: int
) -> TwoParameters:
    """``TPOT = bytes/(tp·W·η) + fixed`` by plain least squares on the median of each tensor parallel size."""
    wanted = ("llama-3.1-70b", system, precision, engine, "agg", "ok", "1024", "1024", str(concurrency))
    keys = ("arch", "system", "precision", "backend", "mode", "quality", "isl", "osl", "concurrency")
    by_tp: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if tuple(row[key] for key in keys) == wanted:
            by_tp[int(row["tp"])].append(float(row["tpot_ms"]) / 1e3)
    moved = WEIGHTS * (FP4_BYTES if precision == "fp4" else 1.0) + concurrency * CONTEXT * TOKEN_BYTES
    sizes = sorted(by_tp)
    ideal = [moved / (tp * BANDWIDTH[system]) for tp in sizes]
    seen = [median(by_tp[tp]) for tp in sizes]
    slope, fixed_s = linear_regression(ideal, seen)
    worst = max(abs((slope * x + fixed_s) / y - 1) for x, y in zip(ideal, seen, strict=True))
    return TwoParameters(1 / slope, fixed_s / LAYERS * 1e6, worst)


RATIO_GROUP = "deepseek-v3|b200_sxm|fp8"
RATIOS = ((20, 1.60), (30, 0.96), (50, 0.69), (80, 0.40), (100, 0.06))
"""Tokens per second and user -> best disaggregated over best aggregated output tokens/s per GPU (T7)."""

LONGEST_TTFT_S = 10.0


def split_ratio(rows: Sequence[dict[str, str]], user_tokens_per_s: float) -> float:
    """Best disaggregated over best aggregated of `RATIO_GROUP` at 8,192/1,024. Wide expert parallelism of one
    side confounds it: never a headline."""
    best = {"agg": 0.0, "disagg": 0.0}
    for row in rows:
        if (row["group"], row["isl"], row["osl"], row["quality"]) != (RATIO_GROUP, "8192", "1024", "ok"):
            continue
        ttft_s, tpot_s, output = float(row["ttft_ms"]) / 1e3, float(row["tpot_ms"]) / 1e3, int(row["osl"])
        if ttft_s > LONGEST_TTFT_S or 1 / tpot_s < user_tokens_per_s:
            continue
        e2e_s = ttft_s + (output - 1) * tpot_s
        rate = int(row["concurrency"]) * output / e2e_s / int(row["n_gpus"])
        best[row["mode"]] = max(best[row["mode"]], rate)
    return best["disagg"] / best["agg"]
