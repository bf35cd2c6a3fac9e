"""A plan, and the hardware catalogue, as tables on a terminal.

Knows: which figures fit there. Does not know: how they came about; `--json` and report.html have all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.padding import Padding

from diptych.cli.tables import number, percent, table

COLOURS = {"split": "blue", "do not split": "yellow", "hybrid": "magenta", "undecided": "white"}
MOST_ASSUMPTIONS = 12
"""Printed; the rest is counted."""


def print_plan(data: Mapping[str, Any]) -> None:
    """Verdict first, then what it rests on."""
    console = Console()
    console.print(f"[bold {COLOURS[data['verdict']]}]{data['verdict'].upper()}[/]", highlight=False)
    console.print(data["words"], highlight=False)
    console.print(f"Because {data['reason']}.", highlight=False)
    gains = [
        f"{number(value)} × {key.replace('_', ' ')}"
        for key, value in data["gains"].items()
        if value is not None
    ]
    if gains:
        console.print(f"Split over baseline with all hardware counted: {', '.join(gains)}.", highlight=False)
    console.print()
    for line in _names(data):
        console.print(line, highlight=False)
    console.print()
    console.print(_candidates(data))
    console.print(_use(data))
    console.print(table("Where the verdict would turn", ("", ""), _turns(data), numbers=False))
    if data["regret"] is not None:
        console.print(_regret(data))
        console.print(_stranding(data["regret"]))
    lines = data["assumptions"]
    console.print("Rests on", style="bold")
    for line in lines[:MOST_ASSUMPTIONS]:
        console.print(Padding(f"· {line}", (0, 0, 0, 2)), highlight=False)
    if len(lines) > MOST_ASSUMPTIONS:
        console.print(f"  … and {len(lines) - MOST_ASSUMPTIONS} more (--json, --output)")


def _letters(data: Mapping[str, Any]) -> dict[str, str]:
    """A letter for each simulated candidate, best first."""
    return {one["name"]: chr(ord("A") + place) for place, one in enumerate(data["candidates"])}


def _names(data: Mapping[str, Any]) -> Iterator[str]:
    for name, letter in _letters(data).items():
        marks = [word for word in ("best", "baseline") if name == data[word]["name"]]
        yield f"{letter}  {name}" + (f" ({', '.join(marks)})" if marks else "")


def _candidates(data: Mapping[str, Any]) -> Any:
    letters = _letters(data)
    rows = []
    for one in data["candidates"]:
        good, per = one["goodput_rps"], one["goodput_per"]
        interval = "" if good["low"] is None else f"{number(max(0.0, good['low']))}–{number(good['high'])}"
        at = one["at_goodput"]
        rows.append(
            (
                f"{letters[one['name']]} {one['kind']}",
                number(good["mean"]),
                interval,
                number(per["per_chip"]),
                number(None if per["per_watt"] is None else 1000 * per["per_watt"]),
                number(per["per_dollar_hour"]),
                "–" if at is None else number(at["ttft_p90_s"]),
                "–" if at is None else number(1000 * at["tpot_p90_s"]),
            )
        )
    columns = ("", "req/s", "95 %", "/chip", "/kW", "/(USD/h)", "TTFT p90 s", "TPOT p90 ms")
    title = f"Goodput: {len(rows)} of {data['considered']:,} candidates simulated\n"
    title += "(with an interval: mean over all seeds; without: the first seed only)"
    return table(title, columns, rows)


def _use(data: Mapping[str, Any]) -> Any:
    letters = _letters(data)
    rows = [
        (
            f"{letters[one['name']]} {use['phase']}",
            use["pool"],
            percent(use["compute"]),
            percent(use["bandwidth"]),
            percent(use["busy"]),
        )
        for one in (data["best"], data["baseline"])
        for use in one["use"]
    ]
    columns = ("", "pool", "compute", "bandwidth", "busy")
    return table("In use: share of the chips' peak while the phase runs", columns, dict.fromkeys(rows))


def _turns(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for one in data["break_even"]:
        yield one["quantity"], one["words"]


def _regret(data: Mapping[str, Any]) -> Any:
    regret, letters = data["regret"], _letters(data)
    names = regret["workloads"]
    rows = [
        (f"{letters.get(line['name'], '')} {line['kind']}", *(percent(line["kept"][name]) for name in names))
        for line in regret["lines"]
    ]
    title = (
        "When the workload shifts: kept of the best fleet's goodput\n"
        "(re-allocated: the split's chips with other roles; resized: unsplit with another engine or chunk)"
    )
    return table(title, ("", *names), rows)


def _stranding(regret: Mapping[str, Any]) -> Any:
    names = regret["workloads"]
    rows = [
        (f"sized for {row['sized_for']}", *(percent(row["kept"][name]) for name in names))
        for row in regret["stranding"]
    ]
    return table("Rigid splits: kept of the ideal split's throughput (closed form)", ("", *names), rows)


def print_hardware() -> None:
    """The catalogue, peaks only."""
    from diptych.planning.library import load_catalogue

    rows = []
    for chip in load_catalogue():
        figures = [chip.bf16, chip.fp8, chip.main.capacity, chip.main.bandwidth, chip.nic, chip.tdp]
        scales = (1e12, 1e12, 1e9, 1e12, 1e9, 1.0)
        cells = [
            number(getattr(figure, "base", None) and figure.base / scale)  # type: ignore[union-attr]
            for figure, scale in zip(figures, scales, strict=True)
        ]
        rows.append((chip.name, *cells))
    columns = ("name", "bf16 TFLOP/s", "fp8 TFLOP/s", "memory GB", "TB/s", "network GB/s", "W")
    Console().print(table("Hardware catalogue (– not published or not supported)", columns, rows))
