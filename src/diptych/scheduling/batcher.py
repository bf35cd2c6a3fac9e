"""Who runs in the next step. Chunked continuous batching.

Knows: budgets, order, who is given back under pressure, who is admitted. Does not know: commands, events,
what happens after the step.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from diptych.domain.ids import BlockId
from diptych.domain.request import Phase
from diptych.scheduling.block_pool import BlockPool
from diptych.scheduling.config import SchedulerConfig
from diptych.scheduling.holding import (
    PromptNeed,
    can_ever_fit,
    give_back,
    grow,
    prompt_need,
    seat_import,
    seat_prompt,
)
from diptych.scheduling.queues import Roster
from diptych.scheduling.sequence import Sequence

KV_PRESSURE = "kv_pressure"
"""A running sequence needed a block and this one was the newest."""
NO_ROOM = "no_room"
"""An import whose reservation was empty found no block."""
TOO_LARGE = "too_large"
"""The tokens need more blocks than the arena has."""


@dataclass(frozen=True, slots=True)
class Bounce:
    """A sequence given back. ``ran``: whether the engine has heard of it."""

    sequence: Sequence
    reason: str
    ran: bool


@dataclass(slots=True)
class Batch:
    """The next step, before it becomes a `StepPlan`."""

    rows: list[tuple[Sequence, int]] = field(default_factory=list[tuple[Sequence, int]])
    """Sequences and how many of their tokens run."""
    admitted: list[Sequence] = field(default_factory=list[Sequence])
    copies: list[tuple[BlockId, BlockId]] = field(default_factory=list[tuple[BlockId, BlockId]])
    bounced: list[Bounce] = field(default_factory=list[Bounce])

    tokens: int = 0
    """Tokens that run."""

    def add(self, sequence: Sequence, count: int) -> None:
        """Run the next ``count`` tokens of ``sequence``."""
        self.rows.append((sequence, count))
        self.tokens += count


class Batcher:
    """Composes steps from a roster and a pool: decodes first, then imports, then prompt chunks."""

    def __init__(self, config: SchedulerConfig, roster: Roster, pool: BlockPool) -> None:
        self._config = config
        self._roster = roster
        self._pool = pool

    def compose(self) -> Batch:
        """The next step. Afterwards everything it contains is running and holds its blocks."""
        batch = Batch()
        self._add_decodes(batch)
        self._add_imports(batch)
        self._add_chunks(batch)
        return batch

    def can_run(self) -> bool:
        """Whether `compose` would find something to do."""
        roster = self._roster
        if roster.running or roster.imports:
            return True
        if roster.prefills.head is None:
            return False
        return not self.must_wait(prompt_need(roster.prefills.head, self._pool))

    def must_wait(self, need: PromptNeed) -> bool:
        """Whether a prompt that needs so much is neither admitted nor bounced now."""
        return can_ever_fit(need, self._pool) and not self._fits_now(need)

    # ------------------------------------------------------------ decodes

    def _add_decodes(self, batch: Batch) -> None:
        """One token for each, best first: whoever is bounced for a row comes after it, so is in no row."""
        for sequence in self._roster.in_phase(Phase.DECODE):
            if batch.tokens == self._config.token_budget:
                return
            if sequence in self._roster.running and self._make_room(sequence, batch):
                batch.add(sequence, 1)

    def _make_room(self, sequence: Sequence, batch: Batch) -> bool:
        """Bounce the newest until ``sequence`` has its block. False if it was the newest itself."""
        while not grow(sequence, self._pool):
            newest = self._roster.newest
            self._bounce(newest, KV_PRESSURE, batch, ran=True)
            if newest is sequence:
                return False
        return True

    # ------------------------------------------------------------ imported decodes

    def _add_imports(self, batch: Batch) -> None:
        """Imports find their reservation; an empty one gets a block if one is free, and displaces nobody."""
        imports = self._roster.imports
        while imports and self._has_seat() and batch.tokens < self._config.token_budget:
            sequence = imports.pop()
            copies = seat_import(sequence, self._pool)
            if copies is None:
                self._bounce(sequence, NO_ROOM, batch, ran=False)
                continue
            batch.copies += copies
            self._admit(sequence, 1, batch)

    # ------------------------------------------------------------ prompts

    def _add_chunks(self, batch: Batch) -> None:
        """Running and waiting prompts by one order; the first gets all it can use of the budget."""
        started = self._roster.in_phase(Phase.PREFILL)
        may_admit = True
        while budget := self._config.token_budget - batch.tokens:
            head = self._roster.prefills.head if may_admit and self._has_seat() else None
            if head and (not started or head.order < started[0].order):
                may_admit = self._try_prompt(head, budget, batch)
            elif started:
                sequence = started.pop(0)
                batch.add(sequence, min(budget, sequence.remaining))
            else:
                return

    def _try_prompt(self, head: Sequence, budget: int, batch: Batch) -> bool:
        """Admit or bounce the head of the queue. False if it must wait, and with it all behind it: were a
        smaller one let past, a large one could wait for ever."""
        need = prompt_need(head, self._pool)
        if not can_ever_fit(need, self._pool):
            self._roster.prefills.pop()
            self._bounce(head, TOO_LARGE, batch, ran=False)
            return True
        if not self._fits_now(need):
            return False
        self._roster.prefills.pop()
        seat_prompt(head, need, self._pool)
        self._admit(head, min(budget, head.remaining), batch)
        return True

    def _fits_now(self, need: PromptNeed) -> bool:
        return need.cost(self._pool) <= self._pool.available_blocks - self._growing()

    def _growing(self) -> int:
        """Running sequences that will ask for unreserved blocks. Each is left one, or the prompt that took
        it would be bounced at the next block boundary."""
        return sum(not (item.reserved_blocks or item.export_lease) for item in self._roster.running)

    # ------------------------------------------------------------ shared

    def _has_seat(self) -> bool:
        return len(self._roster.running) < self._config.max_running

    def _admit(self, sequence: Sequence, count: int, batch: Batch) -> None:
        self._roster.running.append(sequence)
        batch.admitted.append(sequence)
        batch.add(sequence, count)

    def _bounce(self, sequence: Sequence, reason: str, batch: Batch, ran: bool) -> None:
        if ran:
            self._roster.running.remove(sequence)
        give_back(sequence, self._pool)
        batch.bounced.append(Bounce(sequence, reason, ran))
