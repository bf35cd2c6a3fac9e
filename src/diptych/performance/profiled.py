"""How long will it take on that worker? The answer from each worker's own `StepModel`, corrected by what the
worker reports.

Knows: seconds of a step, the path of KV, how far a worker's steps are from the model. Does not know: why
anybody asks, chips, clocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import exp
from typing import Final

from diptych.domain.errors import Bug
from diptych.domain.fleet import LinkSpec
from diptych.domain.ids import WorkerId
from diptych.domain.worker import WorkerStats
from diptych.performance.estimate import MEMORY_BUSY_S, MEMORY_HANDOFFS, CostModel
from diptych.performance.steps import StepModel

MOST_CORRECTION: Final = 10.0
"""A model that is wrong by more than this factor is the wrong model: no single observation counts for
more."""

LEAST_BUSY_S: Final = 1.0
"""Busy seconds that a comparison takes in at least: reports may come with every step."""

KEPT_PROMPTS = 4096
"""Prompts (new and cached tokens) whose seconds are kept; then they are computed anew."""


@dataclass(frozen=True, slots=True)
class Profiled:
    """What is known of one worker beforehand."""

    model: StepModel
    chunk_tokens: int | None
    """Most prompt tokens of one step; None: a prompt is never cut."""
    handoff_fixed_s: float = 0.0
    """Prefill end to decode start from blocks that it borrows, and for each token."""
    handoff_per_token_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Path:
    """How KV goes from one memory domain to another."""

    link: LinkSpec
    kv_bytes_per_token: int
    layers: int

    def handoff_s(self, tokens: int, prefill_s: float) -> float:
        """From the end of a prefill that took ``prefill_s`` until the KV of ``tokens`` tokens is there, on an
        idle link (latency model, KV transfer)."""
        link = self.link
        wire_s = tokens * self.kv_bytes_per_token / link.bandwidth_bytes_per_s
        if not link.layerwise:
            return wire_s + link.latency_s
        hidden_s = prefill_s * (self.layers - 1) / self.layers
        return max(wire_s / self.layers, wire_s - hidden_s) + link.residual_s + link.latency_s


class ProfiledCost(CostModel):
    """A `CostModel` of workers that are known beforehand.

    Each worker's steps that prefill and those that only decode have a factor each: the exponentially weighted
    ratio of observed to predicted seconds (latency model, calibration online). What a handoff takes beyond
    its prediction (other flows on the link) is followed as a difference, by decode worker.

    Raises `Bug` for a worker that it was not given.
    """

    def __init__(self, workers: Mapping[WorkerId, Profiled], path: Path | None = None) -> None:
        speeds: dict[tuple[int, int | None], _Speed] = {}
        self._workers: dict[WorkerId, _Seen] = {}
        self._path = path
        for worker_id, worker in workers.items():
            speed = speeds.setdefault(
                (id(worker.model), worker.chunk_tokens), _Speed(worker.model, worker.chunk_tokens)
            )
            self._workers[worker_id] = _Seen(worker, speed)

    def prefill_s(self, worker_id: WorkerId, new_tokens: int, cached_tokens: int) -> float:
        """See `CostModel`."""
        seen = self._seen(worker_id)
        seen.new_tokens, seen.cached_tokens = new_tokens, cached_tokens
        return seen.prefill_ratio * seen.speed.prompt_s(new_tokens, cached_tokens)

    def decode_step_s(self, worker_id: WorkerId, batch: int, context_tokens: int) -> float:
        """See `CostModel`."""
        seen = self._seen(worker_id)
        seen.context_tokens = context_tokens / batch if batch > 0 else 0.0
        return seen.decode_ratio * seen.speed.decode_s(batch, context_tokens)

    def handoff_s(self, target: WorkerId, tokens: int, prefill_s: float | None) -> float:
        """See `CostModel`."""
        seen = self._seen(target)
        return max(0.0, self._handoff_s(seen, tokens, prefill_s) + seen.handoff_more_s)

    def observe(self, worker_id: WorkerId, stats: WorkerStats) -> None:
        """See `CostModel`."""
        self._seen(worker_id).follow(stats)

    def observe_handoff(
        self, target: WorkerId, tokens: int, prefill_s: float | None, handoff_s: float
    ) -> None:
        """See `CostModel`."""
        seen = self._seen(target)
        more_s = handoff_s - self._handoff_s(seen, tokens, prefill_s)
        seen.handoff_more_s += (1 - exp(-1 / MEMORY_HANDOFFS)) * (more_s - seen.handoff_more_s)

    def ratios(self, worker_id: WorkerId) -> tuple[float, float]:
        """Observed over predicted seconds: of steps that prefill, of steps that only decode."""
        seen = self._seen(worker_id)
        return seen.prefill_ratio, seen.decode_ratio

    def _handoff_s(self, seen: _Seen, tokens: int, prefill_s: float | None) -> float:
        if prefill_s is None or self._path is None:
            return seen.worker.handoff_fixed_s + seen.worker.handoff_per_token_s * tokens
        return self._path.handoff_s(tokens, prefill_s)

    def _seen(self, worker_id: WorkerId) -> _Seen:
        try:
            return self._workers[worker_id]
        except KeyError:
            raise Bug(f"nothing is known of {worker_id}'s speed; known are {_names(self._workers)}") from None


class _Speed:
    """One `StepModel` under one chunk size, with the answers that were given lately."""

    def __init__(self, model: StepModel, chunk_tokens: int | None) -> None:
        self.model = model
        self._chunk_tokens = chunk_tokens
        self._prompts: dict[tuple[int, int], float] = {}
        self._last_new_tokens = self._last_cached_tokens = -1
        self._last_s = 0.0

    def prompt_s(self, new_tokens: int, cached_tokens: int) -> float:
        """Seconds of one prompt, alone in its steps. (Many workers are asked the same in turn.)"""
        if new_tokens == self._last_new_tokens and cached_tokens == self._last_cached_tokens:
            return self._last_s
        self._last_s = self._kept_s(new_tokens, cached_tokens)
        self._last_new_tokens, self._last_cached_tokens = new_tokens, cached_tokens
        return self._last_s

    def _kept_s(self, new_tokens: int, cached_tokens: int) -> float:
        key = (new_tokens, cached_tokens)
        seconds = self._prompts.get(key)
        if seconds is None:
            if len(self._prompts) >= KEPT_PROMPTS:
                self._prompts.clear()
            seconds = self._prompts[key] = self._prompt_s(new_tokens, cached_tokens)
        return seconds

    def decode_s(self, batch: int, context_tokens: float) -> float:
        """Seconds of one step that only decodes."""
        lines = self.model.decode_lines(batch)
        if len(lines) == 1:
            line = lines[0]
            return line.fixed_s + line.per_context_token_s * context_tokens
        return max([line.fixed_s + line.per_context_token_s * context_tokens for line in lines])

    def _prompt_s(self, new_tokens: int, cached_tokens: int) -> float:
        """Equal chunks cost what the first and the last cost on average: a chunk's seconds grow in a straight
        line with what stands before it."""
        if new_tokens <= 0:
            return 0.0
        size = self._chunk_tokens or new_tokens
        whole, rest = divmod(new_tokens, size)
        seconds = 0.0
        if whole:
            first_s = self._chunk_s(size, cached_tokens)
            last_s = self._chunk_s(size, cached_tokens + (whole - 1) * size) if whole > 1 else first_s
            seconds = whole * (first_s + last_s) / 2
        return seconds + (self._chunk_s(rest, cached_tokens + whole * size) if rest else 0.0)

    def _chunk_s(self, new_tokens: int, cached_tokens: int) -> float:
        return self.model.step_s(((new_tokens, cached_tokens),), 0, 0)


class _Seen:
    """One worker: what was known of it, and what it has shown since."""

    __slots__ = (
        "cached_tokens",
        "context_tokens",
        "decode_ratio",
        "handoff_more_s",
        "new_tokens",
        "prefill_ratio",
        "speed",
        "totals",
        "worker",
    )

    def __init__(self, worker: Profiled, speed: _Speed) -> None:
        self.worker = worker
        self.speed = speed
        self.totals = WorkerStats()
        self.prefill_ratio = 1.0
        self.decode_ratio = 1.0
        self.handoff_more_s = 0.0
        self.new_tokens = 0
        self.cached_tokens = 0
        """Of one prompt, as last asked."""
        self.context_tokens = 0.0
        """Of one sequence, as last asked: reports count steps and tokens, not contexts."""

    def follow(self, now: WorkerStats) -> None:
        """Compare what the worker did since the last comparison with what the model says of it."""
        before = self.totals if now.steps >= self.totals.steps else WorkerStats()
        if before is self.totals and _busy_s(now) - _busy_s(before) < LEAST_BUSY_S:
            return
        self.totals = now
        steps = now.steps - before.steps
        decode_steps = now.decode_steps_total - before.decode_steps_total
        if steps <= 0:
            return
        batch = (now.decode_tokens_total - before.decode_tokens_total) / steps
        prompt_tokens = now.prefill_tokens_total - before.prefill_tokens_total
        prefill_steps = steps - decode_steps
        if decode_steps > 0:
            predicted_s = decode_steps * self._decode_s(batch)
            observed_s = now.decode_s_total - before.decode_s_total
            self.decode_ratio = _follow(self.decode_ratio, observed_s, predicted_s)
        if prefill_steps > 0 and prompt_tokens > 0:
            predicted_s = prefill_steps * self._mixed_s(prompt_tokens / prefill_steps, batch)
            observed_s = now.prefill_s_total - before.prefill_s_total
            self.prefill_ratio = _follow(self.prefill_ratio, observed_s, predicted_s)

    def _decode_s(self, batch: float) -> float:
        sequences = max(1, round(batch))
        return self.speed.decode_s(sequences, sequences * self.context_tokens)

    def _mixed_s(self, prompt_tokens: float, batch: float) -> float:
        """A step in the middle of the prompts that were asked about last."""
        sequences = round(batch)
        chunk = (max(1, round(prompt_tokens)), self.cached_tokens + self.new_tokens // 2)
        return self.speed.model.step_s((chunk,), sequences, round(sequences * self.context_tokens))


def _follow(ratio: float, observed_s: float, predicted_s: float) -> float:
    """The exponentially weighted ratio after one more observation, weighted by its busy seconds."""
    if observed_s <= 0 or predicted_s <= 0:
        return ratio
    shown = min(MOST_CORRECTION, max(1 / MOST_CORRECTION, observed_s / predicted_s))
    return ratio + (1 - exp(-observed_s / MEMORY_BUSY_S)) * (shown - ratio)


def _busy_s(stats: WorkerStats) -> float:
    return stats.prefill_s_total + stats.decode_s_total


def _names(worker_ids: Iterable[WorkerId]) -> str:
    return ", ".join(sorted(worker_ids)) or "none"
