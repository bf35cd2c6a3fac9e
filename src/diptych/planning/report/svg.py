"""Small plots as inline SVG, without any library.

Knows: axes, lines, points, bars. Does not know: what is plotted. Colours come from the page's CSS
variables, so that plots follow its light or dark theme."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 480, 280
"""Of one plot in its own units; pages scale it to about their size in pixels."""

LEFT, RIGHT, TOP, BOTTOM = 60, 14, 12, 46
WIDE = 960
"""Bars run over the whole page."""

LONGEST_ROW = 130
"""Letters of a bar's name."""


@dataclass(frozen=True)
class Series:
    """Points of one colour, joined or not."""

    name: str
    points: tuple[tuple[float, float], ...]
    css: str
    """Class that the page colours."""
    line: bool = True
    labels: tuple[str, ...] = ()
    """Shown when the pointer rests on a point."""


@dataclass(frozen=True)
class Axis:
    """One axis."""

    label: str
    log: bool = False


def plot(series: Sequence[Series], x: Axis, y: Axis, mark: tuple[float, float] | None = None) -> str:
    """Lines and points; ``mark`` draws a dashed cross at a point (None as NaN-free: give both)."""
    points = [point for one in series for point in one.points]
    if not points:
        return "<p class='none'>nothing to plot</p>"
    xs = _Scale([p[0] for p in points] + ([mark[0]] if mark else []), LEFT, WIDTH - RIGHT, x.log)
    ys = _Scale([0.0, *(p[1] for p in points), *([mark[1]] if mark else [])], HEIGHT - BOTTOM, TOP, y.log)
    parts = [_frame(xs, ys, x, y)]
    if mark is not None:
        parts.append(_line((xs.at(mark[0]), TOP), (xs.at(mark[0]), HEIGHT - BOTTOM), "mark"))
        parts.append(_line((LEFT, ys.at(mark[1])), (WIDTH - RIGHT, ys.at(mark[1])), "mark"))
    parts += [_series(one, xs, ys) for one in series]
    return _svg(parts, HEIGHT) + _legend([(one.name, one.css) for one in series if one.points])


def stacked(rows: Sequence[tuple[str, Sequence[float]]], parts: Sequence[tuple[str, str]], unit: str) -> str:
    """A horizontal bar for each row, cut into ``parts`` (name, css)."""
    if not rows:
        return "<p class='none'>nothing to plot</p>"
    height = TOP + 58 * len(rows) + BOTTOM
    xs = _Scale([0.0, max(sum(values) for _, values in rows)], 16, WIDE - 64, log=False)
    drawn = [
        f"<text class='axis' x='{WIDE / 2:.0f}' y='{height - 6}' text-anchor='middle'>{escape(unit)}</text>"
    ]
    for tick in xs.ticks():
        drawn.append(_line((xs.at(tick), TOP), (xs.at(tick), height - BOTTOM), "grid"))
        drawn.append(_tick(xs.at(tick), height - BOTTOM + 16, tick, "middle"))
    for number, (name, values) in enumerate(rows):
        top = TOP + 58 * number
        words = f"{escape(_cut(name))}<title>{escape(name)}</title>"
        drawn.append(f"<text class='row' x='16' y='{top + 14}'>{words}</text>")
        start = 0.0
        for value, (what, css) in zip(values, parts, strict=True):
            width = xs.at(start + value) - xs.at(start)
            title = f"<title>{escape(what)}: {_short(value)}</title>"
            drawn.append(
                f"<rect class='{css}' x='{xs.at(start):.1f}' y='{top + 22}' width='{max(width, 0.3):.1f}' "
                "height='22'>"
                f"{title}</rect>"
            )
            start += value
        drawn.append(f"<text class='tick' x='{xs.at(start) + 6:.1f}' y='{top + 38}'>{_short(start)}</text>")
    return _svg(drawn, height, WIDE) + _legend(list(parts))


# ---------------------------------------------------------------- parts


class _Scale:
    """Values to pixels."""

    def __init__(self, values: Sequence[float], first: float, last: float, log: bool) -> None:
        self.log = log
        positive = [value for value in values if value > 0] or [1.0]
        low, high = (min(positive), max(positive)) if log else (min(values), max(values))
        if log:
            low, high = log10(low), log10(high)
        if high <= low:
            high = low + (1.0 if log else max(abs(low), 1.0))
        spare = 0.04 * (high - low)
        self._low = low - spare if log or low != 0.0 else 0.0
        self._high = high + spare
        self._first, self._last = first, last

    def at(self, value: float) -> float:
        """Pixels."""
        place = log10(max(value, 1e-12)) if self.log else value
        share = (place - self._low) / (self._high - self._low)
        return self._first + min(1.02, max(-0.02, share)) * (self._last - self._first)

    def ticks(self) -> list[float]:
        """About five round values."""
        if self.log:
            decades = range(floor(self._low), ceil(self._high) + 1)
            steps = (1, 2, 5) if self._high - self._low < 2.5 else (1,)
            found = [10.0**d * m for d in decades for m in steps]
            return [value for value in found if self._low <= log10(value) <= self._high]
        raw = (self._high - self._low) / 5
        base = 10.0 ** floor(log10(raw))
        step = next(base * m for m in (1, 2, 5, 10) if base * m >= raw)
        first = ceil(self._low / step)
        return [round(step * i, 12) for i in range(first, floor(self._high / step) + 1)]


def _frame(xs: _Scale, ys: _Scale, x: Axis, y: Axis) -> str:
    parts: list[str] = []
    for tick in xs.ticks():
        parts.append(_line((xs.at(tick), TOP), (xs.at(tick), HEIGHT - BOTTOM), "grid"))
        parts.append(_tick(xs.at(tick), HEIGHT - BOTTOM + 16, tick, "middle"))
    for tick in ys.ticks():
        parts.append(_line((LEFT, ys.at(tick)), (WIDTH - RIGHT, ys.at(tick)), "grid"))
        parts.append(_tick(LEFT - 8, ys.at(tick) + 4, tick, "end"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    height = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f"<text class='axis' x='{middle}' y='{HEIGHT - 8}' text-anchor='middle'>{escape(x.label)}</text>"
    )
    parts.append(
        f"<text class='axis' transform='translate(14 {height}) rotate(-90)' "
        f"text-anchor='middle'>{escape(y.label)}</text>"
    )
    return "".join(parts)


def _series(one: Series, xs: _Scale, ys: _Scale) -> str:
    places = [(xs.at(px), ys.at(py)) for px, py in one.points]
    parts: list[str] = []
    if one.line and len(places) > 1:
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
        parts.append(f"<polyline class='{one.css} line' points='{path}'/>")
    for number, (px, py) in enumerate(places):
        label = one.labels[number] if number < len(one.labels) else ""
        title = f"<title>{escape(label)}</title>" if label else ""
        radius = 3 if one.line else 5
        parts.append(f"<circle class='{one.css}' cx='{px:.1f}' cy='{py:.1f}' r='{radius}'>{title}</circle>")
    return "".join(parts)


def _svg(parts: Sequence[str], height: int, width: int = WIDTH) -> str:
    return f"<svg viewBox='0 0 {width} {height}' role='img'>{''.join(parts)}</svg>"


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_ROW else name[: LONGEST_ROW - 1] + "…"


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    """Each colour once, under the first name that uses it."""
    first: dict[str, str] = {}
    for name, css in entries:
        first.setdefault(css, name)
    items = "".join(f"<span><i class='{css}'></i>{escape(name)}</span>" for css, name in first.items())
    return f"<div class='legend'>{items}</div>"


def _line(start: tuple[float, float], end: tuple[float, float], css: str) -> str:
    return (
        f"<line class='{css}' x1='{start[0]:.1f}' y1='{start[1]:.1f}' x2='{end[0]:.1f}' y2='{end[1]:.1f}'/>"
    )


def _tick(x: float, y: float, value: float, anchor: str) -> str:
    return f"<text class='tick' x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'>{_short(value)}</text>"


def _short(value: float) -> str:
    if value != 0 and abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
