"""Two plots as inline SVG: a cumulative distribution, and requests over time.

Knows: coordinates. Does not know: files, the page around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10

from diptych.bench.quantiles import quantile
from diptych.bench.sample import Outcome, Sample

WIDTH, HEIGHT = 860, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 12, 44
CDF_POINTS = 400
MOST_BARS = 300
"""Requests that the timeline shows; of more, evenly chosen ones."""


@dataclass(frozen=True)
class _Axis:
    """Values from 0 to ``most`` along pixels."""

    most: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (self.end - self.start) * value / self.most

    def ticks(self) -> list[float]:
        raw = self.most / 5
        unit = 10 ** floor(log10(raw))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw)
        return [step * i for i in range(int(self.most / step + 1e-9) + 1)]


def cdf(values: Sequence[float], label: str, target: float | None = None) -> str:
    """Share of values up to x; ``target`` is marked."""
    ordered = sorted(values)
    if not ordered or ordered[-1] <= 0:
        return "<p>no values</p>"
    across = _Axis(ordered[-1] * 1.02, LEFT, WIDTH - RIGHT)
    up = _Axis(1.0, HEIGHT - BOTTOM, TOP)
    points = " ".join(
        f"{across.at(quantile(ordered, i / CDF_POINTS)):.1f},{up.at(i / CDF_POINTS):.1f}"
        for i in range(CDF_POINTS + 1)
    )
    body = _frame(across, up, label, "share of requests") + f'<polyline class="line" points="{points}"/>'
    if target is not None and target <= across.most:
        x = across.at(target)
        body += f'<line class="target" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}"/>'
    return _svg(body, f"Cumulative distribution, {label}")


def timeline(samples: Sequence[Sample]) -> str:
    """One line a request, by due moment: waiting for the first token, then receiving; failures in red."""
    every = max(1, -(-len(samples) // MOST_BARS))
    shown = [one for one in sorted(samples, key=lambda one: one.due_s)[::every] if one.end_s is not None]
    if not shown:
        return "<p>no requests</p>"
    end_s = max(sample.end_s or 0.0 for sample in shown)
    across = _Axis(max(end_s, 1e-3) * 1.01, LEFT, WIDTH - RIGHT)
    up = _Axis(len(samples), TOP, HEIGHT - BOTTOM)
    thick = max(0.5, 0.8 * (HEIGHT - TOP - BOTTOM) / len(shown))
    bars = "".join(_bars(sample, across, up.at(place * every), thick) for place, sample in enumerate(shown))
    return _svg(_frame(across, up, "seconds since the start", "request") + bars, "Requests over time")


def _bars(sample: Sample, across: _Axis, y: float, thick: float) -> str:
    end_s = sample.end_s or sample.due_s
    if sample.outcome is not Outcome.COMPLETED or not sample.chunk_s:
        return _bar("bad", across.at(sample.due_s), across.at(end_s), y, thick)
    first_s = sample.chunk_s[0]
    return _bar("wait", across.at(sample.due_s), across.at(first_s), y, thick) + _bar(
        "stream", across.at(first_s), across.at(sample.chunk_s[-1]), y, thick
    )


def _bar(kind: str, x: float, end: float, y: float, thick: float) -> str:
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(0.5, end - x):.1f}" height="{thick:.1f}"/>'
    )


def _frame(across: _Axis, up: _Axis, x_label: str, y_label: str) -> str:
    floor_y, parts = HEIGHT - BOTTOM, list[str]()
    for value in across.ticks():
        x = across.at(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{floor_y}"/>')
        parts.append(f'<text x="{x:.1f}" y="{floor_y + 16}" text-anchor="middle">{value:g}</text>')
    for value in up.ticks():
        y = up.at(value)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    middle = (TOP + floor_y) / 2
    parts.append(
        f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
    )
    parts.append(
        f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )
    return "".join(parts)


def _svg(body: str, title: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{escape(title)}</title>{body}</svg>'
