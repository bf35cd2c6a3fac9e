"""What the server remembers: metrics of ended requests, and their last reports.

Knows: reports, the table of metrics. Does not know: HTTP, how requests run.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise

import msgspec

from diptych.domain.ids import RequestId
from diptych.domain.lifecycle import State
from diptych.domain.report import HandoffKind, Moment, RequestReport
from diptych.domain.request import TokenOut
from diptych.metrics import definitions as d
from diptych.metrics.prometheus import PrometheusExport
from diptych.metrics.snapshot import ClusterSnapshot
from diptych.runtime.streams import RequestStream

_PHASE_ENDING_AT = {
    Moment.TOKENISED: "tokenise",
    Moment.ADMITTED: "admission",
    Moment.PLACED: "placement",
    Moment.DECODE_RESERVED: "reservation",
    Moment.PREFILL_QUEUED: "dispatch",
    Moment.PREFILL_STARTED: "prefill_queue",
    Moment.FIRST_TOKEN: "prefill",
    Moment.HANDED_OFF: "handoff",
    Moment.DECODE_STARTED: "decode_queue",
    Moment.LAST_TOKEN: "decode",
    Moment.FLUSHED: "flush",
}
_ORDER = {moment: place for place, moment in enumerate(Moment)}


class EndedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One ended request of one call."""

    call_id: str
    output_tokens: int
    timeline: Timeline
    report: RequestReport


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """Durations in seconds; None where the request did not come so far."""

    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float | None
    phases_s: dict[str, float]
    """Add up to last moment - first moment, with no gap."""


def timeline_of(report: RequestReport, output_tokens: int) -> Timeline:
    """Work out a report's durations by the formulas of `diptych.metrics.definitions`."""
    at = report.moments
    received, first, last = at.get(Moment.RECEIVED), at.get(Moment.FIRST_TOKEN), at.get(Moment.LAST_TOKEN)
    decode_s = _span(first, last)
    return Timeline(
        ttft_s=_span(received, first),
        tpot_s=None if decode_s is None or output_tokens < 2 else decode_s / (output_tokens - 1),
        e2e_s=_span(received, last),
        phases_s=_phases(at),
    )


def _span(start_s: float | None, end_s: float | None) -> float | None:
    return None if start_s is None or end_s is None else end_s - start_s


def _phases(moments: dict[Moment, float]) -> dict[str, float]:
    """Each phase is named after the moment that ends it. A request that was placed again has them in the
    order in which they happened last."""
    happened = sorted(moments.items(), key=lambda item: (item[1], _ORDER[item[0]]))
    return {
        _PHASE_ENDING_AT.get(moment, "receive"): end_s - start_s
        for (_, start_s), (moment, end_s) in pairwise(happened)
    }


class Observer:
    """Metrics and the ring of reports. One for each app."""

    def __init__(self, snapshot: Callable[[], ClusterSnapshot], capacity: int) -> None:
        self.prometheus = PrometheusExport(snapshot)
        self._capacity = capacity
        self._ended: OrderedDict[RequestId, EndedRequest] = OrderedDict()
        self._draining: set[asyncio.Task[None]] = set()

    def gaps(self, tokens: int, since_last_s: float | None) -> None:
        """Tokens of one sequence that came together; ``since_last_s`` is None for the first of all."""
        if tokens and since_last_s is not None:
            self.prometheus.observe(d.ITL, since_last_s)
        for _ in range(tokens - 1):
            self.prometheus.observe(d.ITL, 0.0)

    def ended(self, call_id: str, report: RequestReport, output_tokens: int) -> None:
        """Record one ended request."""
        timeline = timeline_of(report, output_tokens)
        self._count(report, output_tokens)
        if report.state is State.FINISHED:
            self._measure(report, timeline, output_tokens)
        self._ended[report.request_id] = EndedRequest(
            call_id=call_id, output_tokens=output_tokens, timeline=timeline, report=report
        )
        while len(self._ended) > self._capacity:
            self._ended.popitem(last=False)

    def drain(self, call_id: str, stream: RequestStream, output_tokens: int) -> None:
        """Wait, beside everything else, for the report of a request that nobody waits for any more."""
        task = asyncio.create_task(self._drain(call_id, stream, output_tokens))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    def find(self, name: str) -> list[EndedRequest]:
        """By the id of a call or of one of its requests; empty if it is unknown or forgotten."""
        return [end for end in self._ended.values() if name in (end.call_id, end.report.request_id)]

    async def _drain(self, call_id: str, stream: RequestStream, output_tokens: int) -> None:
        while True:
            for item in await stream.next_batch():
                match item:
                    case TokenOut():
                        output_tokens += 1
                    case RequestReport():
                        return self.ended(call_id, item, output_tokens)
                    case _:
                        pass

    def _count(self, report: RequestReport, output_tokens: int) -> None:
        export = self.prometheus
        finished = report.state is State.FINISHED and report.finish_reason is not None
        export.count(d.REQUESTS, 1, str(report.finish_reason) if finished else report.state.value)
        export.count(d.OUTPUT_TOKENS, output_tokens)
        if report.state is State.REJECTED:
            export.count(d.REJECTIONS, 1, report.error_code or "unknown")

    def _measure(self, report: RequestReport, timeline: Timeline, output_tokens: int) -> None:
        export = self.prometheus
        for metric, value in ((d.TTFT, timeline.ttft_s), (d.TPOT, timeline.tpot_s), (d.E2E, timeline.e2e_s)):
            if value is not None:
                export.observe(metric, value)
        for phase, duration_s in timeline.phases_s.items():
            export.observe(d.PHASE, duration_s, phase)
        export.observe(d.PROMPT_LENGTH, report.prompt_tokens)
        export.observe(d.OUTPUT_LENGTH, output_tokens)
        export.count(d.PROMPT_TOKENS, report.cached_tokens, "cached")
        export.count(d.PROMPT_TOKENS, report.prompt_tokens - report.cached_tokens, "computed")
        export.count(d.PREFIX_QUERIES, report.prompt_tokens)
        export.count(d.PREFIX_HITS, report.cached_tokens)
        handoff = report.handoff
        if handoff.kind is not HandoffKind.NONE:
            export.observe(d.HANDOFF_SECONDS, handoff.handoff_s, handoff.kind.value)
            export.count(d.HANDOFF_BYTES, handoff.bytes_lent, "lent")
            export.count(d.HANDOFF_BYTES, handoff.bytes_copied, "copied")
