"""How requests fared: sums over all, and each one's record if it is wanted.

Knows: the definitions of the client's metrics, what makes a request a good one. Does not know: workers,
pools, time.
"""

from __future__ import annotations

from math import inf
from typing import Final

from diptych.domain.cluster import SloSpec
from diptych.domain.lifecycle import State
from diptych.domain.report import HandoffKind, Moment, RequestReport
from diptych.planning.measure import Buckets, Samples, Summary
from diptych.planning.result import RequestRecord
from diptych.workload.record import Arrival

# Bound once: a lookup in an enumeration costs several times as much as one of a constant, and these are made
# for every request.
_RECEIVED: Final = Moment.RECEIVED
_FIRST_TOKEN: Final = Moment.FIRST_TOKEN
_LAST_TOKEN: Final = Moment.LAST_TOKEN
_FINISHED: Final = State.FINISHED
_NONE: Final = HandoffKind.NONE


class Recorder:
    """Hears how every request ended; keeps sums, and the records if they are wanted."""

    def __init__(self, slo: SloSpec, keep: bool) -> None:
        self._most_ttft_s = inf if slo.ttft_s is None else slo.ttft_s
        self._most_tpot_s = inf if slo.tpot_s is None else slo.tpot_s
        self._keep = keep
        self.itl = Buckets()
        self.records: list[RequestRecord] = []
        self.requests = self.completed = self.rejected = self.failed = self.met = 0
        self.output_tokens = self.prompt_tokens = self.hit_tokens = self.handoffs = self.handoff_bytes = 0
        self.first_s = inf
        self.last_s = 0.0
        self._ttft, self._tpot, self._e2e, self._exposed = Samples(), Samples(), Samples(), Samples()

    def ended(self, arrival: Arrival, report: RequestReport, now_s: float) -> None:
        """See `Audience`."""
        self.requests += 1
        moments = report.moments
        arrived_s = moments.get(_RECEIVED, now_s)
        self.first_s = min(self.first_s, arrived_s)
        self.last_s = max(self.last_s, now_s)
        if report.state is _FINISHED:
            self._finished(arrival, report, arrived_s)
        elif report.state is State.REJECTED:
            self.rejected += 1
        else:
            self.failed += 1
        if self._keep:
            self.records.append(_record(arrival, report, arrived_s, now_s))

    def _finished(self, arrival: Arrival, report: RequestReport, arrived_s: float) -> None:
        first_s, last_s = report.moments[_FIRST_TOKEN], report.moments[_LAST_TOKEN]
        tokens = arrival.output_tokens
        ttft_s = first_s - arrived_s
        self.completed += 1
        self.output_tokens += tokens
        self.prompt_tokens += arrival.input_tokens
        self.hit_tokens += report.cached_tokens
        self._ttft.add(ttft_s)
        self._e2e.add(last_s - arrived_s)
        good = ttft_s <= self._most_ttft_s
        if tokens > 1:
            tpot_s = (last_s - first_s) / (tokens - 1)
            self._tpot.add(tpot_s)
            good = good and tpot_s <= self._most_tpot_s
        self.met += good
        handoff = report.handoff
        if handoff.kind is not _NONE:
            self.handoffs += 1
            self.handoff_bytes += handoff.bytes_streamed + handoff.bytes_lent + handoff.bytes_copied
            self._exposed.add(handoff.handoff_s)

    def summaries(self) -> tuple[Summary, Summary, Summary, Summary]:
        """TTFT, TPOT, e2e, exposed handoff."""
        return self._ttft.summary(), self._tpot.summary(), self._e2e.summary(), self._exposed.summary()


def _record(arrival: Arrival, report: RequestReport, arrived_s: float, now_s: float) -> RequestRecord:
    moments = report.moments
    placed = report.placements[-1] if report.placements else None
    reserved_s = moments.get(Moment.DECODE_RESERVED)
    return RequestRecord(
        number=int(report.request_id),
        state=report.state.value,
        arrival_s=arrived_s,
        first_token_s=moments.get(_FIRST_TOKEN),
        last_token_s=moments.get(_LAST_TOKEN),
        ended_s=now_s,
        input_tokens=arrival.input_tokens,
        output_tokens=arrival.output_tokens,
        cached_tokens=report.cached_tokens,
        prefill_worker=placed.prefill_worker if placed else None,
        decode_worker=placed.decode_worker if placed else None,
        decode_wait_s=None if reserved_s is None else reserved_s - arrived_s,
        handoff_s=report.handoff.handoff_s,
        error=report.error_code,
    )
