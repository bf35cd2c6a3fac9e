"""Two results side by side: medians, intervals, and the ratio with its own interval.

Knows: what makes two results comparable. Does not know: files, how they are shown.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import median
from typing import Any

from diptych.bench.quantiles import CONFIDENCE, quantile, resampled_quantiles

METRICS = ("ttft_s", "tpot_s", "e2e_s")
RATES = ("goodput_rps", "slo_attainment", "output_tokens_per_s", "request_rate_rps")
_SAME = ("workloads", "endpoint", "limits", "concurrency", "warmup_s", "cooldown_s", "slo", "seeds", "clamp")
"""Settings that should agree."""

Records = Sequence[dict[str, Any]]


def compare(
    summaries: tuple[dict[str, Any], dict[str, Any]], requests: tuple[Records, Records]
) -> dict[str, Any]:
    """``{warnings, metrics{name: {a, b, ratio, …}}}``; a ratio is b ÷ a."""
    chooser = random.Random("compare")
    counted = tuple(_completed(summary, rows) for summary, rows in zip(summaries, requests, strict=True))
    metrics: dict[str, Any] = {}
    for name in METRICS:
        sides = [sorted(row[name] for row in rows if row[name] is not None) for rows in counted]
        metrics[name] = _medians(sides[0], sides[1], chooser)
    itl = [summary["itl_s"]["p50"] for summary in summaries]
    metrics["itl_s"] = {**_plain(*itl), **_ends([summary["itl_s"]["p50_interval"] for summary in summaries])}
    for name in RATES:
        metrics[name] = _plain(*(summary[name] for summary in summaries))
    return {"warnings": _warnings(summaries), "metrics": metrics}


def _completed(summary: dict[str, Any], rows: Records) -> list[dict[str, Any]]:
    """Of the window."""
    windows = summary["provenance"]["windows_s"]
    return [
        row
        for row in rows
        if row["outcome"] == "completed" and windows[row["run"]][0] <= row["due_s"] < windows[row["run"]][1]
    ]


def _medians(a: list[float], b: list[float], chooser: random.Random) -> dict[str, Any]:
    if not a or not b:
        return _plain(median(a) if a else None, median(b) if b else None)
    drawn = [resampled_quantiles(side, 0.5, chooser) for side in (a, b)]
    for side in drawn:
        chooser.shuffle(side)  # they come sorted, and must be paired at random
    ratios = sorted(over / under for under, over in zip(*drawn, strict=True) if under > 0)
    return {
        **_plain(median(a), median(b)),
        **_ends([_interval(sorted(side)) for side in drawn]),
        "ratio_interval": _interval(ratios) if ratios else None,
    }


def _plain(a: float | None, b: float | None) -> dict[str, Any]:
    return {"a": a, "b": b, "ratio": b / a if a and b is not None else None}


def _ends(intervals: Sequence[Any]) -> dict[str, Any]:
    return {"a_interval": intervals[0], "b_interval": intervals[1]}


def _interval(ordered: Sequence[float]) -> list[float]:
    tail = (1 - CONFIDENCE) / 2
    return [quantile(ordered, tail), quantile(ordered, 1 - tail)]


def _warnings(summaries: tuple[dict[str, Any], dict[str, Any]]) -> list[str]:
    found: list[str] = []
    for name, summary in zip("AB", summaries, strict=True):
        if summary["void"]:
            found.append(f"{name} is void: its client was the bottleneck")
        if summary["partial"]:
            found.append(f"{name} is partial: it was interrupted")
    a, b = (summary["provenance"]["settings"] for summary in summaries)
    found += [f"{key} differs: {a.get(key)} and {b.get(key)}" for key in _SAME if a.get(key) != b.get(key)]
    return found
