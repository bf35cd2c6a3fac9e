"""A workload in figures.

Knows: rates, burstiness, lengths. Does not know: how a request is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from diptych.workload.quantiles import Histogram, Spread
from diptych.workload.record import Arrival, Workload

DISPERSION_WINDOWS_S = (1.0, 10.0, 60.0)
"""Windows in which arrivals are counted for the index of dispersion, s."""


@dataclass(frozen=True)
class Statistics:
    """Figures of one workload. Arrival figures count requests with an instant of their own, not those that
    follow another one of their session after a pause."""

    requests: int
    chained: int
    """Requests that begin a pause after another one of their session."""
    sessions: int
    span_s: float
    """From the first instant to the last."""
    rate_rps: float
    """Requests (all) over the span; 0 if they all come at once."""
    arrival_cv: float
    """Standard deviation of the gaps between arrivals over their mean; Poisson has 1."""
    dispersion: dict[float, float]
    """Window, s → variance over mean of arrivals per window; Poisson has 1."""
    input_tokens: Spread
    output_tokens: Spread
    with_hash_ids: int
    """Requests of which it is known what they share."""
    block_tokens: int


class Tally:
    """Takes arrivals one by one. Memory: distinct lengths and session ids."""

    def __init__(self, block_tokens: int, windows_s: Sequence[float] = DISPERSION_WINDOWS_S) -> None:
        self.inputs = Histogram()
        self.outputs = Histogram()
        self._block_tokens = block_tokens
        self._windows = [_Counting(window_s) for window_s in windows_s]
        self._gaps = _Moments()
        self._sessions: set[str] = set()
        self._requests = self._chained = self._with_ids = 0
        self._first_s: float | None = None
        self._last_s = 0.0

    def add(self, arrival: Arrival) -> None:
        """The next request of the workload."""
        self._requests += 1
        self.inputs.add(arrival.input_tokens)
        self.outputs.add(arrival.output_tokens)
        self._with_ids += bool(arrival.hash_ids)
        if arrival.session_id is not None:
            self._sessions.add(arrival.session_id)
        if arrival.delay_s is not None:
            self._chained += 1
            return
        if self._first_s is None:
            self._first_s = arrival.t_s
        else:
            self._gaps.add(arrival.t_s - self._last_s)
        self._last_s = arrival.t_s
        for window in self._windows:
            window.add(arrival.t_s - self._first_s)

    def result(self) -> Statistics:
        """All so far."""
        span_s = self._last_s - (self._first_s or 0.0)
        return Statistics(
            requests=self._requests,
            chained=self._chained,
            sessions=len(self._sessions),
            span_s=span_s,
            rate_rps=self._requests / span_s if span_s > 0 else 0.0,
            arrival_cv=self._gaps.cv(),
            dispersion={window.window_s: window.dispersion() for window in self._windows},
            input_tokens=self.inputs.spread(),
            output_tokens=self.outputs.spread(),
            with_hash_ids=self._with_ids,
            block_tokens=self._block_tokens,
        )


def statistics(workload: Workload) -> Statistics:
    """Figures of a workload, in one pass."""
    tally = Tally(workload.block_tokens)
    for arrival in workload:
        tally.add(arrival)
    return tally.result()


class _Moments:
    """Mean and variance by Welford's update, which does not cancel."""

    def __init__(self) -> None:
        self._n = 0
        self._mean = 0.0
        self._squares = 0.0

    def add(self, value: float, times: int = 1) -> None:
        self._n += times
        away = value - self._mean
        self._mean += away * times / self._n
        self._squares += away * (value - self._mean) * times

    def cv(self) -> float:
        return sqrt(self._squares / self._n) / self._mean if self._n and self._mean > 0 else 0.0

    def dispersion(self) -> float:
        return self._squares / self._n / self._mean if self._n and self._mean > 0 else 0.0


class _Counting:
    """Arrivals per window; empty windows count at once. The last window is not full and not counted."""

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self._moments = _Moments()
        self._place = 0
        self._count = 0

    def add(self, past_s: float) -> None:
        place = int(past_s // self.window_s)
        if place > self._place:
            self._moments.add(self._count)
            if empty := place - self._place - 1:
                self._moments.add(0, empty)
            self._place, self._count = place, 0
        self._count += 1

    def dispersion(self) -> float:
        return self._moments.dispersion()
