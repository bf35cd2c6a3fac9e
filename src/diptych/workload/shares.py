"""How the two phases share the work of a workload, over all of it and window by window.

Knows: tokens over rates. Does not know: what gives the rates. Equations: latency model, T11.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diptych.domain.errors import SpecError
from diptych.workload.quantiles import quantile
from diptych.workload.record import Arrival, Workload


@dataclass(frozen=True)
class PhaseRates:
    """Tokens that one machine works off in a second, in each phase."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: float

    def __post_init__(self) -> None:
        for name in ("prefill_tokens_per_s", "decode_tokens_per_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise SpecError(f"{name}: {getattr(self, name)} is not possible; a number above 0")


@dataclass(frozen=True)
class Window:
    """Work that arrives in one stretch of time, in seconds of one machine."""

    start_s: float
    prefill_s: float
    decode_s: float

    @property
    def prefill_share(self) -> float:
        """Prefill's part of the work, 0 to 1; 0 if there is none."""
        both_s = self.prefill_s + self.decode_s
        return self.prefill_s / both_s if both_s else 0.0


class WindowTally:
    """Sums up work by window. Empty windows count too, with no work."""

    def __init__(self, rates: PhaseRates, window_s: float) -> None:
        if not window_s > 0:
            raise SpecError(f"window_s: {window_s} is not possible; a number above 0")
        self._rates = rates
        self._window_s = window_s
        self._done: list[Window] = []
        self._input = self._output = 0

    def add(self, arrival: Arrival) -> None:
        """The next request of the workload."""
        while arrival.t_s >= (len(self._done) + 1) * self._window_s:
            self._close()
        self._input += arrival.input_tokens
        self._output += arrival.output_tokens

    def result(self) -> list[Window]:
        """All windows; the last one may not be full."""
        self._close()
        return self._done

    def _close(self) -> None:
        start_s = len(self._done) * self._window_s
        prefill_s = self._input / self._rates.prefill_tokens_per_s
        self._done.append(Window(start_s, prefill_s, self._output / self._rates.decode_tokens_per_s))
        self._input = self._output = 0


def windows(workload: Workload, rates: PhaseRates, window_s: float = 60.0) -> list[Window]:
    """Work by window of arrival, in one pass."""
    tally = WindowTally(rates, window_s)
    for arrival in workload:
        tally.add(arrival)
    return tally.result()


def prefill_share(found: Sequence[Window]) -> float:
    """Prefill's part of all the work: the split that wastes nothing."""
    return Window(0.0, sum(w.prefill_s for w in found), sum(w.decode_s for w in found)).prefill_share


def relative_throughput(split: float, share: float) -> float:
    """What a fixed split serves of a workload with this prefill share, over what its own split serves."""
    if not (0 <= split <= 1 and 0 <= share <= 1):
        raise SpecError(f"split {split}, share {share}: both from 0 to 1")
    parts = [have / need for have, need in ((split, share), (1 - split, 1 - share)) if need > 0]
    return min(parts)


def rigid_over_pooled(found: Sequence[Window], share: float = 0.95) -> float:
    """Machines a fixed split needs over what one pool needs, each for this quantile of windows' work."""
    rigid_s = quantile([w.prefill_s for w in found], share) + quantile([w.decode_s for w in found], share)
    pooled_s = quantile([w.prefill_s + w.decode_s for w in found], share)
    return rigid_s / pooled_s if pooled_s else 1.0


def share_range(found: Sequence[Window], low: float = 0.05, high: float = 0.95) -> tuple[float, float]:
    """Quantiles of the windows' prefill shares; windows without work say nothing and are left out."""
    busy = [window.prefill_share for window in found if window.prefill_s + window.decode_s > 0]
    return (quantile(busy, low), quantile(busy, high)) if busy else (0.0, 0.0)
