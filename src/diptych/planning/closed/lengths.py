"""Prompt lengths as a truncated log-normal distribution, with its integrals in closed form.

Knows: moments of the distribution over any interval. Does not know: what is done with lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erf, exp, log, sqrt

from diptych.domain.errors import SpecError
from diptych.planning.closed.checks import positive
from diptych.planning.closed.polynomial import Polynomial


@dataclass(frozen=True, slots=True)
class LogNormalLengths:
    """Lengths in tokens: log-normal, truncated to ``shortest`` … ``longest`` and normed again.

    ``E[X^k; low < X < high] = exp(k·µ + k²σ²/2) · (Φ((ln high − µ)/σ − kσ) − Φ((ln low − µ)/σ − kσ))``.
    """

    log_mean: float
    log_sigma: float
    shortest: float
    longest: float

    def __post_init__(self) -> None:
        positive(log_sigma=self.log_sigma, shortest=self.shortest)
        if not self.shortest < self.longest:
            raise SpecError(f"longest: {self.longest} is not above shortest ({self.shortest})")
        if self._moment(0, self.shortest, self.longest) <= 0:
            raise SpecError(f"log_mean: {self.log_mean} leaves nothing between shortest and longest")

    def share_beyond(self, threshold: float) -> float:
        """P(length > threshold)."""
        whole = self._moment(0, self.shortest, self.longest)
        return self._moment(0, self._inside(threshold), self.longest) / whole

    def mean(self, of: Polynomial, low: float | None = None, high: float | None = None) -> float:
        """E[of(length) | low < length < high]; 0 where no length lies between."""
        start = self.shortest if low is None else self._inside(low)
        end = self.longest if high is None else self._inside(high)
        weight = self._moment(0, start, end) if start < end else 0.0
        if weight <= 0.0:
            return 0.0
        total = sum(c * self._moment(k, start, end) for k, c in enumerate(of.coefficients))
        return total / weight

    def _inside(self, length: float) -> float:
        return min(max(length, self.shortest), self.longest)

    def _moment(self, k: int, low: float, high: float) -> float:
        mu, sigma = self.log_mean, self.log_sigma
        top, bottom = ((log(x) - mu) / sigma - k * sigma for x in (high, low))
        return exp(k * mu + k * k * sigma * sigma / 2) * (_normal(top) - _normal(bottom))


def _normal(z: float) -> float:
    """Φ(z)."""
    return 0.5 * (1.0 + erf(z / sqrt(2.0)))
