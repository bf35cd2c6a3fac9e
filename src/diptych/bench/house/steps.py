"""Single steps of real workers, seen from the head.

Knows: that a worker reports its totals after every step, so that two reports in a row are one step; that it
computes prompts in the order in which it says that they start. Does not know: what they were asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from diptych.domain.commands import Command, Send, StartPrefill
from diptych.domain.events import Event, Heartbeat, PrefillStarted, WorkerSaid
from diptych.domain.ids import RequestId, WorkerId
from diptych.domain.worker import WorkerStats
from diptych.performance.steps import Chunk, StepModel

MOMENT_S = 1.0
"""Steps so near to each other ran at about the same speed of the machine: slow moments of a shared one last
from some tenths of a second to a few seconds."""


class Step(NamedTuple):
    """One step. ``busy_s``: the engine's own time; ``gap_s``: since the report of the step before, None if
    the worker
    was idle in between (then the gap says nothing)."""

    worker_id: WorkerId
    ended_s: float
    chunks: tuple[Chunk, ...]
    decode_tokens: int
    busy_s: float
    gap_s: float | None

    @property
    def prefill_tokens(self) -> int:
        """Of all prompts together."""
        return sum(chunk.new_tokens for chunk in self.chunks)

    @property
    def taken_s(self) -> float:
        """What the step cost the worker, with what lies between two steps where that is known."""
        return self.gap_s if self.gap_s is not None else self.busy_s

    @property
    def began_s(self) -> float:
        """On the clock of ``ended_s``."""
        return self.ended_s - self.taken_s

    @property
    def moment(self) -> int:
        """Equal for steps within `MOMENT_S`."""
        return int(self.ended_s / MOMENT_S)

    def expected_s(self, model: StepModel, context_tokens: int) -> float:
        """What ``model`` says of it, if each of its sequences that decode has ``context_tokens``."""
        return model.step_s(self.chunks, self.decode_tokens, self.decode_tokens * context_tokens)


def seconds_of(steps: Sequence[Step]) -> tuple[float, float]:
    """Of steps that prefill, and of the others."""
    prefill_s = decode_s = 0.0
    for step in steps:
        if step.prefill_tokens:
            prefill_s += step.taken_s
        else:
            decode_s += step.taken_s
    return prefill_s, decode_s


class StepWatch:
    """A journal that keeps the steps."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._last: dict[WorkerId, tuple[float, WorkerStats]] = {}
        self._prompts = _Prompts()

    def __call__(self, now_s: float, event: Event, commands: list[Command]) -> None:
        """See `Journal`."""
        self._prompts.hear(event, commands)
        if not isinstance(event, Heartbeat):
            return
        before = self._last.get(event.worker_id)
        stats = event.stats
        if before is not None and stats.steps == before[1].steps:
            return  # a sign of life between two steps
        self._last[event.worker_id] = (now_s, stats)
        if before is None or stats.steps != before[1].steps + 1:
            return
        then_s, seen = before
        busy_s = stats.prefill_s_total + stats.decode_s_total - seen.prefill_s_total - seen.decode_s_total
        gap_s = now_s - then_s
        prefill_tokens = stats.prefill_tokens_total - seen.prefill_tokens_total
        self.steps.append(
            Step(
                event.worker_id,
                now_s,
                self._prompts.computed(event.worker_id, prefill_tokens),
                stats.decode_tokens_total - seen.decode_tokens_total,
                busy_s,
                gap_s if seen.running and gap_s < 2 * busy_s + 0.01 else None,
            )
        )

    def take(self) -> list[Step]:
        """Steps since the last call. Nothing is under way."""
        steps, self.steps = self.steps, []
        self._prompts = _Prompts()
        return steps


class _Prompts:
    """Prompts that workers have begun: which share of which one a step computes."""

    def __init__(self) -> None:
        self._tokens: dict[RequestId, int] = {}
        self._begun: dict[WorkerId, list[Chunk]] = {}
        """What is left of each, in the order in which they run."""

    def hear(self, event: Event, commands: Sequence[Command]) -> None:
        for command in commands:
            if isinstance(command, Send) and isinstance(command.command, StartPrefill):
                work = command.command.work
                self._tokens[work.request_id] = len(work.token_ids)
        if isinstance(event, WorkerSaid) and isinstance(event.event, PrefillStarted):
            cached = event.event.cached_tokens
            left = self._tokens.get(event.event.request_id, cached) - cached
            self._begun.setdefault(event.worker_id, []).append(Chunk(left, cached))

    def computed(self, worker_id: WorkerId, tokens: int) -> tuple[Chunk, ...]:
        """The shares of a step of so many prompt tokens. Of a prompt that nobody has seen begin, nothing
        stands before it."""
        begun = self._begun.get(worker_id, [])
        chunks: list[Chunk] = []
        while tokens:
            left, cached = begun.pop(0) if begun else Chunk(tokens, 0)
            share = min(left, tokens)
            if share:
                chunks.append(Chunk(share, cached))
            if share < left:
                begun.insert(0, Chunk(left - share, cached + share))
            tokens -= share
        return tuple(chunks)
