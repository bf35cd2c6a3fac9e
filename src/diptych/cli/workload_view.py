"""What is in a workload, as data for scripts and as tables for people.

Knows: how figures are shown. Does not know: how they come about.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from diptych.cli.workload_files import Inspected
from diptych.workload.quantiles import Spread
from diptych.workload.shares import prefill_share, rigid_over_pooled, share_range

if TYPE_CHECKING:
    from rich.table import Table


def as_data(found: Inspected) -> dict[str, Any]:
    """One object; shares from 0 to 1, times in seconds."""
    figures = asdict(found.statistics)
    figures["dispersion"] = {f"{window_s:g}": value for window_s, value in figures["dispersion"].items()}
    data = {"workload": found.workload.name, **figures, "notes": [*found.workload.notes, *_cautions(found)]}
    ceiling = found.ceiling
    data["prefix_ceiling"] = None
    if ceiling.blocks:
        data["prefix_ceiling"] = {
            "blocks": ceiling.blocks,
            "distinct_blocks": ceiling.distinct_blocks,
            "hit_blocks": ceiling.hit_blocks,
            "hit_block_share": ceiling.hit_block_share,
            "hit_token_share": ceiling.hit_token_share,
            "lru_token_share": {str(size): ceiling.lru_token_share(size) for size in ceiling.lru_hit_tokens},
        }
    if found.windows is not None:
        low, high = share_range(found.windows)
        data["prefill_share"] = {
            "all": prefill_share(found.windows),
            "window_s": found.window_s,
            "p5": low,
            "p95": high,
            "rigid_over_pooled": rigid_over_pooled(found.windows),
        }
    return data


def show(found: Inspected) -> None:
    """Tables on standard output."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console.print(Text(found.workload.name, "bold"))
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in _facts(found):
        table.add_row(Text(name), Text(value))
    console.print(table)
    console.print()
    console.print(_lengths(found))
    for note in (*found.workload.notes, *_cautions(found)):
        console.print(Text(f"note: {note}", "dim"))


def _facts(found: Inspected) -> list[tuple[str, str]]:
    figures, ceiling = found.statistics, found.ceiling
    facts = [
        ("requests", f"{figures.requests:,}{_sessions(found)}"),
        ("span", f"{figures.span_s:,.1f} s, {figures.rate_rps:.3g} requests/s"),
    ]
    if figures.span_s:
        spread = ", ".join(f"{value:.2f} at {window:g} s" for window, value in figures.dispersion.items())
        facts.append(("burstiness", f"CV of gaps {figures.arrival_cv:.2f}; index of dispersion {spread}"))
    if ceiling.blocks:
        facts.append(
            (
                "prefix ceiling",
                f"{ceiling.hit_token_share:.2%} of tokens; "
                f"{ceiling.hit_blocks:,} of {ceiling.blocks:,} blocks of {figures.block_tokens} tokens",
            )
        )
        caches = [f"{size / 1e6:g} M: {ceiling.lru_token_share(size):.2%}" for size in ceiling.lru_hit_tokens]
        facts.append(("cache of so many tokens", ", ".join(caches)))
    else:
        facts.append(("prefix ceiling", "unknown: the workload does not say what prompts share"))
    if found.windows is not None:
        low, high = share_range(found.windows)
        facts.append(("prefill share", f"{prefill_share(found.windows):.3f} of the work"))
        facts.append((f"in windows of {found.window_s:g} s", f"p5 {low:.2f}, p95 {high:.2f}"))
        facts.append(
            ("rigid split", f"{rigid_over_pooled(found.windows) - 1:.1%} more machines than one pool")
        )
    return facts


def _cautions(found: Inspected) -> list[str]:
    if not found.statistics.chained:
        return []
    return [
        "requests after a pause count where their session begins: bounded caches and windows see sessions "
        "one after the other"
    ]


def _sessions(found: Inspected) -> str:
    figures = found.statistics
    if not figures.sessions:
        return ""
    return f" in {figures.sessions:,} sessions; {figures.chained:,} follow another one after a pause"


def _lengths(found: Inspected) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("tokens")
    for name in ("mean", "p50", "p90", "p99", "max"):
        table.add_column(name, justify="right")
    table.add_row("input", *_cells(found.statistics.input_tokens))
    table.add_row("output", *_cells(found.statistics.output_tokens))
    return table


def _cells(spread: Spread) -> list[str]:
    whole = (spread.p50, spread.p90, spread.p99, spread.max)
    return [f"{spread.mean:,.1f}", *(f"{value:,.0f}" for value in whole)]
