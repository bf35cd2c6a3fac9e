"""A result as one HTML page that needs nothing else.

Knows: the page. Does not know: files, how figures came about.
"""

from __future__ import annotations

import json
from html import escape
from typing import Any

from diptych.bench.rows import Row, rows
from diptych.bench.run import Result
from diptych.bench.sample import Outcome
from diptych.bench.svg import cdf, timeline

_STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#222, #ddd); --faint: light-dark(#ddd, #444); }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 900px; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem; text-align: right; }
td:first-child, th:first-child { text-align: left; } tr { border-bottom: 1px solid var(--faint); }
svg { width: 100%; height: auto; font-size: 12px; } svg text { fill: var(--ink); }
.grid { stroke: var(--faint); } .line { fill: none; stroke: #2563eb; stroke-width: 2; }
.target { stroke: #dc2626; stroke-dasharray: 4; } .wait { fill: #94a3b8; } .stream { fill: #2563eb; }
.bad { fill: #dc2626; } .warn { border-left: 4px solid #dc2626; padding-left: .8rem; }
pre { overflow-x: auto; font-size: 13px; }
"""


def page(result: Result) -> str:
    """The whole document."""
    summary = result.summary
    samples = [sample for _, sample in result.samples]
    done = [one for one in samples if one.outcome is Outcome.COMPLETED]
    ttfts = [sample.ttft_s for sample in done if sample.ttft_s is not None]
    title = f"diptych bench: {summary['provenance']['server']['model']}"
    provenance = escape(json.dumps(summary["provenance"], indent=2))
    return "".join(
        [
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>',
            f"<style>{_STYLE}</style><h1>{escape(title)}</h1>",
            _warnings(summary),
            _table(rows(summary)),
            "<h2>Time to first token</h2>",
            cdf(ttfts, "TTFT, seconds", summary["slo"]["ttft_s"]),
            "<h2>Requests</h2><p>Grey: waiting for the first token. Blue: receiving. Red: no answer.</p>",
            *(timeline(run.loaded.samples) for run in result.runs),
            f"<h2>Provenance</h2><pre>{provenance}</pre></html>",
        ]
    )


def _warnings(summary: dict[str, Any]) -> str:
    lines = list(summary["void_reasons"])
    if lines:
        lines[0] = f"VOID, the client was the bottleneck: {lines[0]}"
    if summary["partial"]:
        lines.append("PARTIAL: interrupted before its end")
    lines += summary["notes"]
    return "".join(f'<p class="warn">{escape(line)}</p>' for line in lines)


def _table(shown: list[Row]) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("", "p50", "p90", "p99", "mean", "count"))
    body = "".join(
        f"<tr><td>{escape(row.name)}</td>"
        + "".join(f"<td>{escape(cell)}</td>".replace("\n", "<br>") for cell in row.cells)
        + "</tr>"
        for row in shown
    )
    return f"<table><tr>{head}</tr>{body}</table>"
