"""One generated output as data for scripts, and as a timeline for people.

Knows: reports, phases, how a bar is drawn. Does not know: how the output came about.
"""

from __future__ import annotations

from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from diptych.cli.asking import Answered
from diptych.cli.banner import size
from diptych.domain.errors import Bug
from diptych.domain.report import HandoffKind, Moment, Placement, RequestReport
from diptych.orchestration.explain import told
from diptych.runtime.topology import Topology
from diptych.server.observe import timeline_of

PHASES = {
    "tokenise": "tokenise_s",
    "admission": "queue_s",
    "placement": "queue_s",
    "reservation": "queue_s",
    "dispatch": "queue_s",
    "prefill_queue": "queue_s",
    "prefill": "prefill_s",
    "handoff": "handoff_s",
    "decode_queue": "handoff_s",  # until decode may start, as in the report's own `handoff_s`
    "decode": "decode_s",
}
"""Phase of a timeline → what it counts as here. In this order they follow each other."""

BAR_CELLS = 40


def as_data(answered: Answered, model_name: str, topology: Topology) -> dict[str, Any]:
    """Everything that is known of the output, as plain values."""
    report, placement = _report(answered), _placement(answered)
    output_tokens = len(answered.choice.token_ids)
    timeline = timeline_of(report, output_tokens)
    return {
        "text": answered.text,
        "token_ids": list(answered.choice.token_ids),
        "finish_reason": answered.choice.finish_reason,
        "usage": {
            "prompt_tokens": report.prompt_tokens,
            "completion_tokens": output_tokens,
            "cached_tokens": report.cached_tokens,
        },
        "prefill_worker": placement.prefill_worker,
        "decode_worker": placement.decode_worker,
        "handoff": msgspec.to_builtins(report.handoff),
        "phases": phases_of(answered),
        "ttft_s": timeline.ttft_s,
        "tpot_s": timeline.tpot_s,
        "e2e_s": timeline.e2e_s,
        "received_to_moment_s": _since_received(report),
        "placements": told(report.placements),
        "model": model_name,
        "topology": msgspec.to_builtins(topology),
    }


def _since_received(report: RequestReport) -> dict[str, float]:
    """Seconds since the request was received: the clock's own zero means nothing to anybody else."""
    received_s = report.moments[Moment.RECEIVED]
    return {moment.value: t_s - received_s for moment, t_s in report.moments.items()}


def phases_of(answered: Answered) -> dict[str, float]:
    """Seconds of every phase; they add up to the end-to-end time."""
    phases = dict.fromkeys(PHASES.values(), 0.0)
    for name, duration_s in timeline_of(_report(answered), len(answered.choice.token_ids)).phases_s.items():
        if name in PHASES:  # what comes after the last token is not part of it
            phases[PHASES[name]] += duration_s
    return phases


def timeline(answered: Answered) -> RenderableType:
    """Phases as bars, and the handoff in words."""
    phases = phases_of(answered)
    total_s = sum(phases.values())
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("phase")
    table.add_column("ms", justify="right")
    table.add_column("", width=BAR_CELLS)
    start_s = 0.0
    for name, duration_s in phases.items():
        table.add_row(name.removesuffix("_s"), f"{duration_s * 1000:.2f}", _bar(start_s, duration_s, total_s))
        start_s += duration_s
    table.add_row("end to end", f"{total_s * 1000:.2f}", "")
    return Group(table, Text(), *(Text(line) for line in _words(answered)))


def _bar(start_s: float, duration_s: float, total_s: float) -> Text:
    """A bar from where the phase begins to where it ends; a short one still shows."""
    if total_s <= 0:
        return Text()
    first = min(BAR_CELLS - 1, int(BAR_CELLS * start_s / total_s))
    cells = max(1, round(BAR_CELLS * duration_s / total_s)) if duration_s > 0 else 0
    return Text(" " * first + "█" * min(cells, BAR_CELLS - first), "cyan")


def _words(answered: Answered) -> list[str]:
    report, placement = _report(answered), _placement(answered)
    output_tokens = len(answered.choice.token_ids)
    figures = timeline_of(report, output_tokens)
    pair = " → ".join(dict.fromkeys((placement.prefill_worker, placement.decode_worker)))
    return [
        f"{report.prompt_tokens} prompt tokens ({report.cached_tokens} cached), "
        f"{output_tokens} output tokens, finished by {answered.choice.finish_reason}",
        f"time to first token {_ms(figures.ttft_s)}, then {_ms(figures.tpot_s)} per token",
        f"{pair}: {_handoff_words(report)}",
        f"placed there because: {placement.reason.removeprefix(f'{pair}: ')}",
    ]


def _handoff_words(report: RequestReport) -> str:
    handoff = report.handoff
    if handoff.kind is HandoffKind.NONE:
        return "the same worker went on, nothing was handed over"
    blocks = "1 KV block" if handoff.blocks == 1 else f"{handoff.blocks} KV blocks"
    if handoff.kind is HandoffKind.STREAM:
        moved = f"{size(handoff.bytes_streamed)} streamed"
    else:
        moved = f"{size(handoff.bytes_lent)} lent, {size(handoff.bytes_copied)} copied"
    return f"{blocks} in {handoff.handoff_s * 1000:.2f} ms, {moved}"


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1000:.2f} ms"


def _report(answered: Answered) -> RequestReport:
    if answered.choice.report is None:
        raise Bug("an answered request has no report")
    return answered.choice.report


def _placement(answered: Answered) -> Placement:
    """The one that the request finished under."""
    placements = _report(answered).placements
    if not placements:
        raise Bug("a finished request was never placed")
    return placements[-1]
