"""Who runs in the next step. Continuous batching, with prompts cut into chunks or whole.

Knows: budgets, order, who is given back under pressure, who is admitted. Does not know: commands, events,
what happens after the step.
"""

from __future__ import annotations

from typing import NamedTuple

from diptych.domain.ids import BlockId
from diptych.domain.kv import blocks_for
from diptych.scheduling.block_pool import BlockPool
from diptych.scheduling.config import SchedulerConfig
from diptych.scheduling.holding import (
    PromptNeed,
    can_ever_fit,
    give_back,
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


class Bounce(NamedTuple):
    """A sequence given back. ``ran``: whether the engine has heard of it."""

    sequence: Sequence
    reason: str
    ran: bool


class Batch:
    """The next step, before it becomes a `StepPlan`.

    ``decodes``: so many sequences decode, the first ones of those that do. ``chunks``: sequences in their
    prompt and how many of their tokens run. ``tokens``: so many run altogether.
    """

    __slots__ = ("admitted", "bounced", "chunks", "copies", "decodes", "step", "tokens")

    def __init__(self) -> None:
        self.step = -1
        self.decodes = 0
        self.tokens = 0
        self.chunks: list[tuple[Sequence, int]] = []
        self.admitted: list[Sequence] = []
        self.copies: list[tuple[BlockId, BlockId]] = []
        self.bounced: list[Bounce] = []


class Batcher:
    """Composes steps from a roster and a pool: decodes first, then imports, then prompt chunks. Where prompts
    are not cut, waiting prompts first, and decodes only in steps without any."""

    def __init__(self, config: SchedulerConfig, roster: Roster, pool: BlockPool) -> None:
        self._chunked = config.chunked_prefill
        self._max_running = config.max_running
        self._token_budget = config.token_budget
        self._roster = roster
        self._pool = pool

    def compose(self) -> Batch:
        """The next step. Afterwards everything it contains is running and holds its blocks."""
        batch = Batch()
        if not self._chunked:
            self._add_whole_prompts(batch)
        if not batch.chunks:
            self._add_decodes(batch)
            if self._roster.imports.sequences:
                self._add_imports(batch)
        if self._chunked:
            self._add_chunks(batch)
        return batch

    def can_run(self) -> bool:
        """Whether `compose` would find something to do."""
        roster = self._roster
        if roster.running or roster.imports.sequences:
            return True
        if roster.prefills.head is None:
            return False
        return not self.must_wait(prompt_need(roster.prefills.head, self._pool))

    def must_wait(self, need: PromptNeed) -> bool:
        """Whether a prompt that needs so much is neither admitted nor bounced now."""
        return can_ever_fit(need, self._pool) and not self._fits_now(need)

    def fits_anyway(self, head: Sequence) -> bool:
        """Whether a prompt has room even if nothing of it is found: every block costs one at most."""
        blocks = blocks_for(head.tokens, head.block_tokens)
        return blocks <= self._pool.available_blocks - self._roster.growing

    def looks_at_imports(self) -> bool:
        """Whether a step that decodes everyone would look at a waiting import."""
        return self._has_seat() and len(self._roster.decodes.sequences) < self._token_budget

    def looks_at_prompts(self) -> bool:
        """Whether a step that decodes everyone would have looked at a waiting prompt."""
        whole = not self._chunked
        return self._has_seat() and (whole or self._roster.running < self._token_budget)

    def next_chunk(self, prompt: Sequence) -> int:
        """Tokens of ``prompt``, the first of those that have begun, that a step computes in which everyone
        decodes; 0 if that step ends it, or looks at a waiting prompt before it."""
        budget = self._token_budget - len(self._roster.decodes.sequences)
        if not self._chunked or prompt.remaining <= budget:
            return 0
        head = self._roster.prefills.head
        if head is not None and head.order < prompt.order and self._has_seat():
            return 0
        return budget

    # ------------------------------------------------------------ decodes

    def _add_decodes(self, batch: Batch) -> None:
        """One token for each, best first: whoever is bounced for a row comes after it, so is in no row."""
        decodes, budget = self._roster.decodes, self._token_budget
        for sequence in decodes.full.copy():  # mostly none
            if len(decodes.sequences) > budget and decodes.sequences.index(sequence) >= budget:
                break
            if sequence.running:
                self._make_room(sequence, batch)
        batch.decodes = batch.tokens = min(len(decodes.sequences), budget)

    def _make_room(self, sequence: Sequence, batch: Batch) -> None:
        """Bounce the newest until ``sequence`` has its block, or is the newest itself."""
        while sequence.running and not self._roster.decodes.grow(sequence, self._pool):
            newest = self._roster.newest
            self._roster.remove(newest)
            self._bounce(newest, KV_PRESSURE, batch, ran=True)

    # ------------------------------------------------------------ imported decodes

    def _add_imports(self, batch: Batch) -> None:
        """Imports find their reservation; an empty one gets a block if one is free, and displaces nobody."""
        imports = self._roster.imports
        while imports.sequences and self._has_seat() and batch.tokens < self._token_budget:
            sequence = imports.pop()
            copies = seat_import(sequence, self._pool)
            if copies is None:
                self._bounce(sequence, NO_ROOM, batch, ran=False)
                continue
            batch.copies += copies
            self._admit(sequence, batch)
            batch.decodes += 1
            batch.tokens += 1

    # ------------------------------------------------------------ prompts

    def _add_chunks(self, batch: Batch) -> None:
        """Running and waiting prompts by one order; the first gets all it can use of the budget."""
        waiting, started = self._roster.prefills.sequences, self._roster.prefilling.copy()
        may_admit = True
        while (waiting or started) and (budget := self._token_budget - batch.tokens):
            head = waiting[0] if waiting and may_admit and self._has_seat() else None
            if head and (not started or head.order < started[0].order):
                may_admit = self._try_prompt(head, batch)
            elif started:
                sequence = started.pop(0)
                self._run_chunk(sequence, min(budget, sequence.remaining), batch)
            else:
                return

    def _add_whole_prompts(self, batch: Batch) -> None:
        """Waiting prompts in order while the budget lasts; the first may exceed it."""
        while (head := self._roster.prefills.head) and self._has_seat() and self._try_prompt(head, batch):
            pass

    def _try_prompt(self, head: Sequence, batch: Batch) -> bool:
        """Admit or bounce the head of the queue. False if it must wait, and with it all behind it: were a
        smaller one let past, a large one could wait for ever."""
        need = prompt_need(head, self._pool)
        if not can_ever_fit(need, self._pool):
            self._roster.prefills.pop()
            self._bounce(head, TOO_LARGE, batch, ran=False)
            return True
        count = self._share(head.remaining - len(need.prefix) * head.block_tokens, batch)
        if not count or not self._fits_now(need):
            return False
        self._roster.prefills.pop()
        seat_prompt(head, need, self._pool)
        self._admit(head, batch)
        self._run_chunk(head, count, batch)
        return True

    def _share(self, tokens: int, batch: Batch) -> int:
        """How many of a prompt's tokens run in this step."""
        budget = self._token_budget - batch.tokens
        if self._chunked:
            return min(budget, tokens)
        return tokens if tokens <= budget or not batch.chunks else 0

    def _run_chunk(self, sequence: Sequence, count: int, batch: Batch) -> None:
        batch.chunks.append((sequence, count))
        batch.tokens += count

    def _fits_now(self, need: PromptNeed) -> bool:
        """Growing sequences are left one block each, or the prompt that took it would be bounced at the next
        block boundary."""
        return need.cost <= self._pool.available_blocks - self._roster.growing

    # ------------------------------------------------------------ shared

    def _has_seat(self) -> bool:
        return self._roster.running < self._max_running

    def _admit(self, sequence: Sequence, batch: Batch) -> None:
        self._roster.admit(sequence)
        batch.admitted.append(sequence)

    def _bounce(self, sequence: Sequence, reason: str, batch: Batch, ran: bool) -> None:
        give_back(sequence, self._pool)
        batch.bounced.append(Bounce(sequence, reason, ran))
