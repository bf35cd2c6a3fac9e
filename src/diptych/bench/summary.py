"""From samples to the figures of a run, by the definitions of `docs/bench.md`.

Knows: which requests count, over which seconds. Does not know: how they were sent, where figures go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from diptych.bench.load import Loaded
from diptych.bench.quantiles import Distribution, of_gaps, of_requests, quantile
from diptych.bench.sample import Outcome, Sample
from diptych.domain.cluster import SloSpec

NO_TARGETS = "no targets given (--ttft, --tpot)"
CLOSED = "a closed loop sends less to a slower server: no goodput can be read from it"

METRICS: dict[str, Callable[[Sample], float | None]] = {
    "ttft_s": lambda sample: sample.ttft_s,
    "tpot_s": lambda sample: sample.tpot_s,
    "e2e_s": lambda sample: sample.e2e_s,
}
"""One value a request."""


@dataclass(frozen=True)
class Window:
    """Seconds of a run that count, from its start: requests that were due in it, tokens that came in it."""

    start_s: float
    end_s: float
    whole: bool = True
    """Nothing is cut off, and its last moment counts too. Otherwise it does not: at one request a second, six
    seconds hold six."""

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end_s - self.start_s

    def holds(self, at_s: float) -> bool:
        """Whether a moment lies in it."""
        return self.start_s <= at_s < self.end_s or (self.whole and at_s == self.end_s)


@dataclass(frozen=True)
class Measured:
    """One run: its samples and the seconds that count."""

    loaded: Loaded
    window: Window
    seed: int

    @property
    def counted(self) -> list[Sample]:
        """Requests that were due in the window."""
        return [sample for sample in self.loaded.samples if self.window.holds(sample.due_s)]

    @property
    def output_tokens(self) -> float:
        """Tokens of completed requests that came in the window."""
        done = (one for one in self.loaded.samples if one.outcome is Outcome.COMPLETED)
        return sum(sample.tokens_where(self.window.holds) for sample in done)


def window_of(loaded: Loaded, warmup_s: float, cooldown_s: float) -> Window:
    """From the first due moment to the last end; with a cut, to the last due moment less the cooldown, since
    what drains after it is no steady load."""
    samples = loaded.samples
    last_due_s = max((sample.due_s for sample in samples), default=0.0)
    if warmup_s > 0 or cooldown_s > 0:
        return Window(warmup_s, max(warmup_s, last_due_s - cooldown_s), whole=False)
    return Window(0.0, max((sample.end_s or sample.due_s for sample in samples), default=0.0))


def figures(runs: Sequence[Measured], slo: SloSpec, *, closed: bool, seed: int) -> dict[str, Any]:
    """Of one run, or of several together."""
    counted = [sample for run in runs for sample in run.counted]
    done = [sample for sample in counted if sample.outcome is Outcome.COMPLETED]
    outcomes = Counter(sample.outcome for sample in counted)
    seconds = sum(run.window.seconds for run in runs)
    latencies = {name: distribution(done, metric, seed).as_data() for name, metric in METRICS.items()}
    return {
        "requests": len(counted),
        **{outcome.value: outcomes[outcome] for outcome in Outcome},
        "not_sent": sum(run.loaded.not_sent for run in runs),
        "errors": dict(Counter(sample.error_code for sample in counted if sample.error_code)),
        **latencies,
        "itl_s": {
            **of_gaps([sample.gaps_s for sample in done], seed).as_data(),
            "estimated_requests": sum(sample.gaps_estimated for sample in done),
        },
        **_goodput(counted, seconds, slo, closed=closed),
        "request_rate_rps": _per_second(len(counted), seconds),
        "output_tokens_per_s": _per_second(sum(run.output_tokens for run in runs), seconds),
        "measured_s": seconds,
        "mismatches": _mismatches(done),
        "cached_prompt_tokens": sum(sample.cached_tokens or 0 for sample in done),
        "server": _server(done, seed),
    }


def distribution(done: Sequence[Sample], metric: Callable[[Sample], float | None], seed: int) -> Distribution:
    """Of a metric with one value a request; who has none is left out and seen in ``count``."""
    return of_requests([value for sample in done if (value := metric(sample)) is not None], seed)


def _goodput(counted: Sequence[Sample], seconds: float, slo: SloSpec, *, closed: bool) -> dict[str, Any]:
    reason = CLOSED if closed else NO_TARGETS if slo.ttft_s is slo.tpot_s is None else None
    if reason is not None:
        return {"goodput_rps": None, "slo_attainment": None, "goodput_reason": reason}
    good = sum(sample.meets(slo.ttft_s, slo.tpot_s) for sample in counted)
    attainment = good / len(counted) if counted else None
    return {"goodput_rps": _per_second(good, seconds), "slo_attainment": attainment}


def _per_second(amount: float, seconds: float) -> float | None:
    return amount / seconds if seconds > 0 else None


def _mismatches(done: Sequence[Sample]) -> dict[str, int]:
    """Completed requests whose counts are not what was asked for."""
    return {
        "output_tokens": sum(one.usage_output_tokens not in (None, one.output_tokens) for one in done),
        "prompt_tokens": sum(one.usage_prompt_tokens not in (None, one.input_tokens) for one in done),
        "no_usage": sum(one.usage_output_tokens is None for one in done),
    }


def _server(done: Sequence[Sample], seed: int) -> dict[str, Any] | None:
    """The same metrics on the server's clock, where it tells them."""
    told = [sample.server for sample in done if sample.server]
    if not told:
        return None
    return {
        name: of_requests([one[name] for one in told if one.get(name) is not None], seed).as_data()
        for name in METRICS
    }


def lags(samples: Sequence[Sample]) -> dict[str, float | None]:
    """How late requests left, in seconds."""
    late = sorted(sample.lag_s for sample in samples if sample.lag_s is not None)
    shares = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
    return {name: quantile(late, share) if late else None for name, share in shares}
