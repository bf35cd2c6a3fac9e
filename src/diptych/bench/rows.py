"""A summary as rows of text: the terminal and the page show the same.

Knows: which figures a reader wants first, units. Does not know: terminals, HTML.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LATENCIES = (("ttft_s", "TTFT ms"), ("tpot_s", "TPOT ms"), ("itl_s", "ITL ms"), ("e2e_s", "e2e ms"))
COLUMNS = ("p50", "p90", "p99", "mean", "count")


@dataclass(frozen=True)
class Row:
    """A name and cells, as many as `COLUMNS` or one."""

    name: str
    cells: tuple[str, ...]


def rows(summary: dict[str, Any]) -> list[Row]:
    """Latencies with intervals; the rest one by one."""
    shown = [Row(name, _cells(summary[key])) for key, name in LATENCIES]
    if summary.get("server"):
        shown.append(Row("TTFT ms, server's clock", _cells(summary["server"]["ttft_s"])))
    return [*shown, *_counts(summary)]


def _cells(figures: dict[str, Any]) -> tuple[str, ...]:
    values = [_with_interval(figures, name) for name in ("p50", "p90", "p99")]
    return (*values, _ms(figures["mean"]), f"{figures['count']:,} {figures['of']}")


def _with_interval(figures: dict[str, Any], name: str) -> str:
    ends = figures.get(f"{name}_interval")
    value = _ms(figures[name])
    return value if ends is None else f"{value}\n[{_ms(ends[0])}, {_ms(ends[1])}]"


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1e3:.4g}"


def _counts(summary: dict[str, Any]) -> list[Row]:
    outcomes = ("completed", "rejected", "failed", "unfinished", "not_sent")
    ended = ", ".join(f"{summary[name]:,} {name.replace('_', ' ')}" for name in outcomes if summary[name])
    found = [
        Row("requests", (f"{summary['requests']:,} ({ended})",)),
        Row("sent per second", (_number(summary["request_rate_rps"]),)),
        Row("output tokens per second", (_number(summary["output_tokens_per_s"]),)),
        Row("goodput per second", (_goodput(summary),)),
    ]
    for name, value in (
        ("errors", _listed(summary["errors"])),
        ("counts not as asked", _listed(summary["mismatches"])),
        ("too long, left out", _number(summary["refused_too_long"])),
        ("too long, shortened", _number(summary["clamped"])),
    ):
        if value not in ("", "0"):
            found.append(Row(name, (value,)))
    return found


def _goodput(summary: dict[str, Any]) -> str:
    if summary["goodput_rps"] is None:
        return f"– ({summary.get('goodput_reason', 'nothing was measured')})"
    return f"{_number(summary['goodput_rps'])} ({summary['slo_attainment']:.1%} of requests)"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
