"""What a simulated run showed: percentiles, goodput, use of each pool.

Knows: the definitions of the client's metrics (TTFT, TPOT, ITL, e2e), how samples are kept in bounded
memory. Does
not know: workers, policies, how a time came about.
"""

from __future__ import annotations

from array import array
from math import ceil, exp, floor, log
from typing import Final

import msgspec

EXACT_SAMPLES = 131_072
"""So many samples of a metric are kept as they are; beyond, they are counted in buckets."""

BUCKET_RATIO: Final = 1.001
"""Width of a bucket: percentiles of very long runs are exact to 0.05 %."""

_LOG_RATIO: Final = log(BUCKET_RATIO)
_SMALLEST_S: Final = 1e-9
_FIRST: Final = floor(log(_SMALLEST_S) / _LOG_RATIO)
"""Number of the bucket of the smallest value; no other is lower."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles and mean in seconds; None where there was no sample."""

    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    mean: float | None = None
    count: int = 0


class Buckets:
    """Weighted samples in geometric buckets; the mean stays exact."""

    def __init__(self) -> None:
        self._weights: list[int] = []
        """By bucket, as far as the largest value seen: a place in a list is found sooner than a key, and even
        a value of a year makes no more than forty thousand."""
        self._sum = 0.0
        self.count = 0

    def add(self, value_s: float, weight: int = 1) -> None:
        """``weight`` equal samples."""
        if weight > 0:
            bucket = floor(log(max(value_s, _SMALLEST_S)) / _LOG_RATIO) - _FIRST
            if bucket >= len(self._weights):
                self._weights.extend([0] * (bucket + 1 - len(self._weights)))
            self._weights[bucket] += weight
            self._sum += value_s * weight
            self.count += weight

    def add_series(self, first_s: float, last_s: float, steps: int, weight: int) -> None:
        """``steps`` values in a straight line from ``first_s`` to ``last_s``, each ``weight`` times."""
        if steps < 1:
            return
        pieces = min(
            steps, 1 + int(abs(log(max(last_s, _SMALLEST_S) / max(first_s, _SMALLEST_S))) / _LOG_RATIO)
        )
        done = 0
        for piece in range(1, pieces + 1):
            upto = steps * piece // pieces
            middle = (done + upto - 1) / 2
            value_s = first_s + (last_s - first_s) * (middle / (steps - 1) if steps > 1 else 0.0)
            self.add(value_s, weight * (upto - done))
            done = upto

    def summary(self) -> Summary:
        """Percentiles by nearest rank over the buckets' middles."""
        if not self.count:
            return Summary()
        return Summary(
            p50=self._at(0.5),
            p90=self._at(0.9),
            p99=self._at(0.99),
            mean=self._sum / self.count,
            count=self.count,
        )

    def _at(self, share: float) -> float:
        rank = ceil(share * self.count)
        for bucket, weight in enumerate(self._weights, _FIRST):
            rank -= weight
            if rank <= 0:
                return exp((bucket + 0.5) * _LOG_RATIO)
        raise AssertionError("unreachable: ranks end at the count")


class Samples:
    """One metric over requests: exact up to `EXACT_SAMPLES`, in buckets beyond."""

    def __init__(self) -> None:
        self._exact: array[float] | None = array("d")
        self._buckets = Buckets()

    def add(self, value_s: float) -> None:
        """One request's value."""
        exact = self._exact
        if exact is None:
            self._buckets.add(value_s)
            return
        exact.append(value_s)
        if len(exact) > EXACT_SAMPLES:
            for seen_s in exact:
                self._buckets.add(seen_s)
            self._exact = None

    def summary(self) -> Summary:
        """See `Summary`; linear interpolation between ranks while the samples are exact."""
        if self._exact is None:
            return self._buckets.summary()
        values = sorted(self._exact)
        if not values:
            return Summary()
        return Summary(
            p50=_quantile(values, 0.5),
            p90=_quantile(values, 0.9),
            p99=_quantile(values, 0.99),
            mean=sum(values) / len(values),
            count=len(values),
        )


def _quantile(values: list[float], share: float) -> float:
    place = share * (len(values) - 1)
    low = floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)
