"""Pictures of a workload.

Knows: matplotlib, which is loaded here and nowhere else in the command. Does not know: how figures come
about.
"""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.cli.workload_files import watched
from diptych.domain.errors import SpecError
from diptych.workload.ceilings import PrefixCeiling, PrefixWalk
from diptych.workload.record import Workload
from diptych.workload.statistics import Statistics, Tally

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg", ".html")
WINDOWS = 100
"""Windows of the arrival plot, where nobody says how long one is."""
CACHES_TOKENS = (*(factor * 10**power for power in (4, 5, 6, 7) for factor in (1, 2, 5)), 10**8)
"""Sizes of caches on the axis, tokens."""
NAME_LETTERS = 100
"""Most of a workload's name that fits above the panels; its end tells more than its folder."""
INPUT_COLOUR, OUTPUT_COLOUR = "#1f6f8b", "#d1603d"


def draw(workload: Workload, out: str, window_s: float | None = None) -> None:
    """Three panels into ``out``. Raises `SpecError` for another ending, or if matplotlib is not there."""
    ending = Path(out).suffix.lower()
    if ending not in ENDINGS:
        raise SpecError(f"{out}: ending '{ending}' is not possible; one of: {', '.join(ENDINGS)}")
    if window_s is not None and not 0 < window_s < float("inf"):
        raise SpecError(f"--window-s: {window_s} is not possible; a number above 0")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise SpecError("plots need matplotlib: pip install 'diptych[planner]'") from None
    figure = Figure(figsize=(13, 4), layout="constrained")
    FigureCanvasAgg(figure)
    _fill(figure, workload, window_s)
    try:
        Path(out).write_bytes(_rendered(figure, ending, workload.name))
    except OSError as error:
        raise SpecError(f"{out}: cannot be written: {error.strerror}") from None


def _fill(figure: Figure, workload: Workload, window_s: float | None) -> None:
    tally = Tally(workload.block_tokens)
    sizes = tuple(size for size in CACHES_TOKENS if size >= workload.block_tokens)
    walk = PrefixWalk(workload.block_tokens, sizes)
    instants: list[float] = []
    for arrival in watched(workload):
        tally.add(arrival)
        walk.add(arrival)
        if arrival.delay_s is None:
            instants.append(arrival.t_s)
    found = tally.result()
    if not found.requests:
        raise SpecError(f"{workload.name}: has no requests")
    arrivals, lengths, ceiling = figure.subplots(1, 3)
    _arrivals(arrivals, found, instants, window_s)
    _lengths(lengths, tally)
    _ceiling(ceiling, walk.result())
    name = workload.name if len(workload.name) <= NAME_LETTERS else f"…{workload.name[-NAME_LETTERS:]}"
    figure.suptitle(f"{name}: {found.requests:,} requests", fontsize=11)


def _arrivals(axes: Axes, found: Statistics, instants: list[float], window_s: float | None) -> None:
    axes.set(title="Arrivals", xlabel="time (s)", ylabel="arrivals/s")
    if not found.span_s:
        axes.text(0.5, 0.5, "all at once", ha="center", va="center", transform=axes.transAxes)
        return
    width_s = window_s or found.span_s / WINDOWS
    first_s = instants[0]
    counts = [0] * (int((instants[-1] - first_s) // width_s) + 1)
    for t_s in instants:
        counts[int((t_s - first_s) // width_s)] += 1
    edges = [first_s + place * width_s for place in range(len(counts) + 1)]
    axes.stairs([count / width_s for count in counts], edges, color=INPUT_COLOUR, fill=True, alpha=0.35)
    axes.stairs([count / width_s for count in counts], edges, color=INPUT_COLOUR)
    rate_rps = len(instants) / found.span_s
    axes.axhline(rate_rps, color="black", linewidth=0.8, linestyle="--")
    title = f"Arrivals in windows of {width_s:.3g} s; mean {rate_rps:.3g}/s, CV {found.arrival_cv:.2f}"
    axes.set_title(title, fontsize=10)
    axes.set_ylim(bottom=0)


def _lengths(axes: Axes, tally: Tally) -> None:
    for name, histogram, colour in (
        ("input", tally.inputs, INPUT_COLOUR),
        ("output", tally.outputs, OUTPUT_COLOUR),
    ):
        spread = histogram.spread()
        points = histogram.cumulative()
        values, shares = [value for value, _ in points], [share for _, share in points]
        label = f"{name}: mean {spread.mean:,.0f}, p50 {spread.p50:,.0f}, p90 {spread.p90:,.0f}"
        axes.step([values[0], *values], [0.0, *shares], where="post", color=colour, label=label)
    axes.set_xscale("log")
    axes.set(xlabel="tokens", ylabel="share of requests", ylim=(0, 1.02))
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axes.grid(alpha=0.3)


def _ceiling(axes: Axes, found: PrefixCeiling) -> None:
    axes.set_title("Prompt tokens that a cache could hold", fontsize=10)
    axes.set(xlabel="cache (tokens)", ylabel="share of prompt tokens")
    if not found.blocks:
        axes.text(0.5, 0.5, "unknown: no hash ids", ha="center", va="center", transform=axes.transAxes)
        return
    sizes = list(found.lru_hit_tokens)
    shares = [found.lru_token_share(size) for size in sizes]
    axes.semilogx(sizes, shares, color=INPUT_COLOUR, marker="o", markersize=3, label="least recently used")
    unbounded = f"unbounded: {found.hit_token_share:.1%}"
    axes.axhline(found.hit_token_share, color="black", linewidth=0.8, linestyle="--", label=unbounded)
    axes.set_ylim(0, max(0.05, found.hit_token_share * 1.15))
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(alpha=0.3)


def _rendered(figure: Figure, ending: str, name: str) -> bytes:
    target = io.BytesIO()
    options: dict[str, Any] = {"dpi": 110} if ending == ".png" else {"metadata": {"Date": None}}
    figure.savefig(target, format="png" if ending == ".png" else "svg", **options)
    if ending != ".html":
        return target.getvalue()
    drawing = target.getvalue().decode()
    body = drawing[drawing.index("<svg") :]
    head = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(name)}</title>"
    return f"{head}<body>{body}</body></html>".encode()
