"""How long will it take on that worker? The question that placement asks, and an answer from observation.

Knows: `CostModel`, and `ObservedCost`, which follows what each worker reports. Does not know: why
anybody asks, hardware, clocks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from math import exp
from typing import Final

from mypy_extensions import mypyc_attr

from diptych.domain.ids import WorkerId
from diptych.domain.worker import WorkerStats

DEFAULT_PREFILL_TOKENS_PER_S = 1000.0
"""Placeholder until the first measurement of any worker: a small model on a few cores."""

DEFAULT_DECODE_STEP_S = 0.02
"""Placeholder until the first measurement of any worker: one sequence, small model."""

DEFAULT_HANDOFF_S = 0.002
"""Placeholder until the first measurement: two messages and at most one copied block."""

DECODE_FIXED_SHARE = 0.7
"""Share of a decode step that does not grow with the batch (reading the weights). An assumption: totals of
steps and tokens alone can not tell the two parts apart."""

MEMORY_BUSY_S: Final = 5.0
"""Busy seconds after which an observation has lost all but 1/e of its weight."""

MEMORY_HANDOFFS: Final = 10.0
"""Handoffs after which an observation has lost all but 1/e of its weight."""


@mypyc_attr(allow_interpreted_subclasses=True)
class CostModel(ABC):
    """Predicted seconds of work. All arguments are counts; every answer is finite and not negative.

    A base class and not a protocol: placement asks it for every worker and request, and compiled code calls
    the methods of a class far faster.
    """

    @abstractmethod
    def prefill_s(self, worker_id: WorkerId, new_tokens: int, cached_tokens: int) -> float:
        """Seconds to compute KV of ``new_tokens`` behind ``cached_tokens`` that are there already."""

    @abstractmethod
    def decode_step_s(self, worker_id: WorkerId, batch: int, context_tokens: int) -> float:
        """Seconds of one step that decodes ``batch`` sequences of ``context_tokens`` tokens altogether."""

    @abstractmethod
    def handoff_s(self, target: WorkerId, tokens: int, prefill_s: float | None) -> float:
        """Seconds from the end of a prefill until ``target`` may decode from its ``tokens`` tokens.

        ``prefill_s``: None where ``target`` borrows the blocks; where it fetches them from another memory
        domain, how long the prefill takes, for layers may leave while later ones are computed.
        """

    @abstractmethod
    def observe(self, worker_id: WorkerId, stats: WorkerStats) -> None:
        """Learn from a report of one incarnation (totals only rise, or start again from nothing)."""

    @abstractmethod
    def observe_handoff(
        self, target: WorkerId, tokens: int, prefill_s: float | None, handoff_s: float
    ) -> None:
        """Learn from one handoff: what `handoff_s` would have been asked, and what it took."""


@dataclass(slots=True)
class _Rate:
    """An exponentially weighted mean. ``value`` is None before the first observation."""

    value: float | None = None

    def follow(self, observed: float, weight: float) -> None:
        self.value = observed if self.value is None else self.value + weight * (observed - self.value)


@dataclass(slots=True)
class _Observed:
    """What one worker has shown. Survives a restart: the hardware is the same."""

    totals: WorkerStats = field(default_factory=WorkerStats)
    prefill_token_s: _Rate = field(default_factory=_Rate)
    decode_step_s: _Rate = field(default_factory=_Rate)
    decode_batch: _Rate = field(default_factory=_Rate)
    handoff_s: _Rate = field(default_factory=_Rate)


class ObservedCost(CostModel):
    """Follows each worker's own totals; a worker that has shown nothing is taken for the mean of the others,
    and the first of all for the defaults above.

    Three simplifications, stated: prefill seconds are proportional to the new tokens (attention to cached
    tokens is inside the observed mean), a decode step depends on the batch but not on the context, and a
    handoff on nothing but its target (true where blocks are lent; where they are streamed, a mean).
    """

    def __init__(self) -> None:
        self._workers: dict[WorkerId, _Observed] = {}

    def prefill_s(self, worker_id: WorkerId, new_tokens: int, cached_tokens: int) -> float:
        """See `CostModel`."""
        del cached_tokens
        default_s = 1.0 / DEFAULT_PREFILL_TOKENS_PER_S
        return new_tokens * self._rate(worker_id, lambda seen: seen.prefill_token_s, default_s)

    def decode_step_s(self, worker_id: WorkerId, batch: int, context_tokens: int) -> float:
        """See `CostModel`. Linear in the batch through the observed mean (batch, seconds)."""
        del context_tokens
        step_s = self._rate(worker_id, lambda seen: seen.decode_step_s, DEFAULT_DECODE_STEP_S)
        usual_batch = max(1.0, self._rate(worker_id, lambda seen: seen.decode_batch, 1.0))
        return step_s * (DECODE_FIXED_SHARE + (1 - DECODE_FIXED_SHARE) * batch / usual_batch)

    def handoff_s(self, target: WorkerId, tokens: int, prefill_s: float | None) -> float:
        """See `CostModel`."""
        del tokens, prefill_s
        return self._rate(target, lambda seen: seen.handoff_s, DEFAULT_HANDOFF_S)

    def observe(self, worker_id: WorkerId, stats: WorkerStats) -> None:
        """See `CostModel`."""
        seen = self._workers.setdefault(worker_id, _Observed())
        before = seen.totals if stats.steps >= seen.totals.steps else WorkerStats()
        seen.totals = stats
        _follow_prefill(seen, before, stats)
        _follow_decode(seen, before, stats)

    def observe_handoff(
        self, target: WorkerId, tokens: int, prefill_s: float | None, handoff_s: float
    ) -> None:
        """See `CostModel`."""
        del tokens, prefill_s
        seen = self._workers.setdefault(target, _Observed())
        seen.handoff_s.follow(max(0.0, handoff_s), 1 - exp(-1 / MEMORY_HANDOFFS))

    def _rate(self, worker_id: WorkerId, of: Callable[[_Observed], _Rate], default: float) -> float:
        own = self._workers.get(worker_id)
        if own is not None and (value := of(own).value) is not None:
            return value
        shown = [value for seen in self._workers.values() if (value := of(seen).value) is not None]
        return sum(shown) / len(shown) if shown else default


def _weight(busy_s: float) -> float:
    return 1 - exp(-busy_s / MEMORY_BUSY_S)


def _follow_prefill(seen: _Observed, before: WorkerStats, now: WorkerStats) -> None:
    tokens = now.prefill_tokens_total - before.prefill_tokens_total
    busy_s = now.prefill_s_total - before.prefill_s_total
    if tokens > 0 and busy_s > 0:
        seen.prefill_token_s.follow(busy_s / tokens, _weight(busy_s))


def _follow_decode(seen: _Observed, before: WorkerStats, now: WorkerStats) -> None:
    steps = now.decode_steps_total - before.decode_steps_total
    busy_s = now.decode_s_total - before.decode_s_total
    if steps <= 0 or busy_s <= 0:
        return
    seen.decode_step_s.follow(busy_s / steps, _weight(busy_s))
    # Tokens come out of steps with prompts in them, too, where a worker does both.
    tokens, all_steps = now.decode_tokens_total - before.decode_tokens_total, now.steps - before.steps
    seen.decode_batch.follow(max(1.0, tokens / max(steps, all_steps)), _weight(busy_s))
