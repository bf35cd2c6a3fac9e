"""Single steps of real workers, seen from the head.

Knows: that a worker reports its totals after every step, so that two reports in a row are one step. Does not
know: what
was asked of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from diptych.domain.commands import Command
from diptych.domain.events import Event, Heartbeat
from diptych.domain.ids import WorkerId
from diptych.domain.worker import WorkerStats


class Step(NamedTuple):
    """One step. ``busy_s``: the engine's own time; ``gap_s``: since the report of the step before, None if
    the worker
    was idle in between (then the gap says nothing)."""

    worker_id: WorkerId
    ended_s: float
    prefill_tokens: int
    decode_tokens: int
    busy_s: float
    gap_s: float | None

    @property
    def taken_s(self) -> float:
        """What the step cost the worker, with what lies between two steps where that is known."""
        return self.gap_s if self.gap_s is not None else self.busy_s

    @property
    def began_s(self) -> float:
        """On the clock of ``ended_s``."""
        return self.ended_s - self.taken_s


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

    def __call__(self, now_s: float, event: Event, commands: list[Command]) -> None:
        """See `Journal`."""
        del commands
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
        self.steps.append(
            Step(
                event.worker_id,
                now_s,
                stats.prefill_tokens_total - seen.prefill_tokens_total,
                stats.decode_tokens_total - seen.decode_tokens_total,
                busy_s,
                gap_s if seen.running and gap_s < 2 * busy_s + 0.01 else None,
            )
        )

    def take(self) -> list[Step]:
        """Steps since the last call."""
        steps, self.steps = self.steps, []
        return steps
