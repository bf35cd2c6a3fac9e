"""A plan as one self-contained page: no script, no font, no address of anybody else.

Knows: sections and their order. Does not know: how plots are drawn (`svg`), how the plan came about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from diptych.planning.report.page import STYLE
from diptych.planning.report.svg import Axis, Series, plot, stacked

KINDS = ("unsplit", "split", "hybrid")
"""Also CSS classes."""

_PER = {"per_chip": "chip", "per_watt": "watt", "per_dollar_hour": "USD/h"}
_PLOTTED = {"per_chip": ("chip", 1.0), "per_watt": ("kW", 1000.0), "per_dollar_hour": ("USD/h", 1.0)}
"""Key → (unit of the plot, units of the key in it)."""
_TTFT = (
    ("waiting for a place", "p1"),
    ("waiting for a prefill worker", "p2"),
    ("prefill of the prompt", "p3"),
)


def report_html(data: Mapping[str, Any]) -> str:
    """The whole page."""
    parts = [
        _head(data),
        _section("Candidates", _candidates(data)),
        _section("Compute and bandwidth in use", _use(data)),
        _section("Where the time to the first token goes", _waterfall(data)),
        _section("Goodput against TPOT", _pareto(data)),
        _section("Where the verdict would turn", _break_even(data)),
        _section("When the workload shifts", _regret(data)),
        _section("What this rests on", _assumptions(data)),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>Plan: {escape(data['verdict'])}</title><style>{STYLE}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


# ---------------------------------------------------------------- sections


def _head(data: Mapping[str, Any]) -> str:
    load, targets, budget = data["workload"], data["targets"], data["budget"]
    asked = (
        f"{load['name']} · mean prompt {load['input_tokens']:,.0f} tokens ({load['cached_share']:.0%} "
        "cached at best), "
        f"mean output {load['output_tokens']:,.0f} · TTFT ≤ {targets['ttft_s']:g} s and TPOT ≤ "
        f"{targets['tpot_s'] * 1000:g} ms for {targets['share']:.0%} · budget {budget['limit']:,g} "
        f"{budget['unit']}"
    )
    gains = [
        f"{_number(value, 3)} × per {_PER[key]}" for key, value in data["gains"].items() if value is not None
    ]
    told = f"<p class='gains'>All hardware counted: {', '.join(gains)}.</p>" if gains else ""
    return (
        f"<header><p class='kicker'>diptych plan</p><h1 class='{_css(data['verdict'])}'>"
        f"{escape(data['verdict'].capitalize())}</h1><p class='lead'>{escape(data['words'])}</p>"
        f"<p>Because {escape(data['reason'])}.</p>{told}<p class='asked'>{escape(asked)}</p></header>"
    )


def _candidates(data: Mapping[str, Any]) -> str:
    best, base = data["best"]["name"], data["baseline"]["name"]
    rows = []
    for one in data["candidates"]:
        marks = [word for word, name in (("chosen", best), ("baseline", base)) if one["name"] == name]
        per = one["goodput_per"]
        rows.append(
            [
                f"<b class='{one['kind']}'>{one['kind']}</b> {escape(one['name'])}"
                + "".join(f" <em>{word}</em>" for word in marks),
                _interval(one["goodput_rps"]),
                _number(one["estimate_rps"], 3),
                _number(per["per_chip"], 3),
                _number(None if per["per_watt"] is None else 1000 * per["per_watt"], 3),
                _number(per["per_dollar_hour"], 3),
                _number(one["usd_per_million_tokens"], 3),
                escape(one["binds"]),
            ]
        )
    head = (
        "",
        "goodput, requests/s (95 %)",
        "closed form",
        "per chip",
        "per kW",
        "per USD/h",
        "USD per M tokens",
    )
    note = f"{data['considered']:,} candidates by closed forms, {len(data['candidates'])} simulated "
    note += f"({data['simulated_requests']:,} requests). Goodputs with an interval are means over all seeds; "
    note += "those without are of the first seed only."
    return f"<p>{note}</p>" + _table((*head, "bound by"), rows)


def _use(data: Mapping[str, Any]) -> str:
    rows = []
    same = data["best"]["name"] == data["baseline"]["name"]
    for role in ("best",) if same else ("best", "baseline"):
        for use in data[role]["use"]:
            busy = use["busy"]
            rows.append(
                [
                    f"{escape(use['pool'])} <em>{'best, baseline' if same else role}</em>",
                    escape(use["phase"]),
                    f"{use['compute']:.0%}",
                    f"{use['bandwidth']:.0%}",
                    "–" if busy is None else f"{busy:.0%}",
                ]
            )
    if not rows:
        return "<p class='none'>measured profiles say nothing of the hardware's peaks</p>"
    return "<p>Shares of the chips' peak while the phase runs.</p>" + _table(
        ("pool", "phase", "compute", "bandwidth", "pool busy"), rows
    )


def _waterfall(data: Mapping[str, Any]) -> str:
    rows = []
    for one in _named(data):
        at = one["at_goodput"]
        if at is not None:
            effects = at["effects"]
            values = (effects["place_wait_s"], effects["queue_s"], effects["prefill_s"])
            rows.append((f"{one['kind']}: {one['name']}", values))
    gaps = [
        f"{one['kind']} {1000 * one['at_goodput']['effects']['handoff_s']:.1f} ms"
        for one in _named(data)
        if one["at_goodput"] is not None and one["kind"] != "unsplit"
    ]
    note = f"<p>After it, handoff takes (mean): {escape(', '.join(gaps))}.</p>" if gaps else ""
    return stacked(rows, _TTFT, "mean seconds, just below each goodput") + note


def _pareto(data: Mapping[str, Any]) -> str:
    plots = []
    for key, (unit, scale) in _PLOTTED.items():
        points = [point for point in data["pareto"].get(key, []) if point["goodput_per"] > 0]
        if not points:
            plots.append(f"<figure><figcaption>per {unit}</figcaption><p class='none'>not known</p></figure>")
            continue
        series = []
        for kind in KINDS:
            for source in ("estimate", "simulated"):
                own = [it for it in points if it["kind"] == kind and it["source"] == source]
                series.append(
                    Series(
                        kind,
                        tuple((1000 * it["tpot_s"], scale * it["goodput_per"]) for it in own),
                        kind,
                        line=source == "estimate",
                        labels=tuple(it["name"] for it in own),
                    )
                )
        drawn = plot(series, Axis("TPOT, ms", log=True), Axis(f"requests/s per {unit}"))
        plots.append(f"<figure><figcaption>per {unit}</figcaption>{drawn}</figure>")
    note = (
        "Lines: closed forms at other TPOT targets, scaled to simulation. Dots: simulated, at their own 90th "
    )
    return f"<p>{note}percentile of TPOT.</p><div class='grid2'>{''.join(plots)}</div>"


def _break_even(data: Mapping[str, Any]) -> str:
    items, plots = [], []
    for one in data["break_even"]:
        items.append(f"<li><b>{escape(one['quantity'])}</b>: {escape(one['words'])}</li>")
        if len(one["curve"]) > 1:
            series = Series("split ÷ unsplit", tuple((x, y) for x, y in one["curve"]), "split")
            x = Axis(f"{one['quantity']}, {one['unit']}", log=True)
            drawn = plot([series], x, Axis("goodput ratio"), mark=(one["given"], 1.0))
            plots.append(f"<figure><figcaption>{escape(one['quantity'])}</figcaption>{drawn}</figure>")
    return f"<ul>{''.join(items)}</ul><div class='grid2'>{''.join(plots)}</div>"


def _regret(data: Mapping[str, Any]) -> str:
    regret = data["regret"]
    if regret is None:
        return ""
    names = regret["workloads"]
    rows = [
        [
            f"<b class='{_css(line['kind'])}'>{escape(line['kind'])}</b> {escape(line['name'])}",
            *(_heat(line["kept"][name], _number(line["goodput"][name], 3)) for name in names),
        ]
        for line in regret["lines"]
    ]
    strand = [
        [
            escape(row["sized_for"]),
            f"{row['prefill_share']:.0%}",
            *(_heat(row["kept"][name], "") for name in names),
        ]
        for row in regret["stranding"]
    ]
    flexible = [
        [f"{row['share']:.0%}", f"{row['kept_given']:.0%}", f"{row['kept_worst']:.0%}", escape(row["source"])]
        for row in regret["flexibility"]
    ]
    return (
        "<p>Goodput on each workload as a share of the best fleet of the same budget (requests/s in "
        "small).</p>"
        + _table(("fleet", *names), rows)
        + "<h3>Stranded capacity</h3><p>Closed form min(s/p, (1−s)/(1−p)) for a rigid split that gives "
        "prefill the share s of the chips, where the workload wants p.</p>"
        + _table(("sized for", "prefill share", *names), strand)
        + "<h3>Price of flexibility</h3>"
        + _table(("workers that change roles", "kept as given", "kept at worst", "source"), flexible)
    )


def _assumptions(data: Mapping[str, Any]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in data["assumptions"]) + "</ul>"


# ---------------------------------------------------------------- pieces


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _named(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The best simulated one of each kind."""
    found: dict[str, Mapping[str, Any]] = {}
    for one in data["candidates"]:
        found.setdefault(one["kind"], one)
    return [found[kind] for kind in KINDS if kind in found]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML; a cell that begins with ``<td`` brings its own."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = []
    for row in rows:
        cells = "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in row)
        lines.append(f"<tr>{cells}</tr>")
    return (
        "<div "
        f"class='scroll'><table><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _heat(kept: float, small: str) -> str:
    """A cell as dark as what is lost."""
    detail = f"<small>{small}</small>" if small else ""
    return f"<td class='heat' style='--lost:{min(1.0, 1.0 - kept):.2f}'>{kept:.0%}{detail}</td>"


def _interval(found: Mapping[str, Any]) -> str:
    mean = _number(found["mean"], 3)
    if found["low"] is None:
        return mean
    low, high = _number(max(0.0, found["low"]), 3), _number(found["high"], 3)
    return f"{mean} <small>{low}–{high}</small>"


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


def _css(kind: str) -> str:
    return {"do not split": "unsplit", "resized": "unsplit", "re-allocated": "split"}.get(kind, kind)
