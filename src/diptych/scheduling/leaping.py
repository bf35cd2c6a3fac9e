"""Many equal steps at once: how long a batch that only decodes stays as it is, and what it is afterwards.

In virtual time nobody waits for a single token, so a simulator asks for the next step that is not like the
one before. Stepping decides what is right: a leap leaves exactly what its steps would have left.

Knows: when decodes grow, publish and end; what keeps a waiting prompt waiting. Does not know: seconds,
engines, commands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from diptych.domain.errors import Bug
from diptych.domain.ids import TokenId
from diptych.domain.request import Phase
from diptych.scheduling.batcher import Batcher
from diptych.scheduling.block_pool import BlockPool
from diptych.scheduling.config import SchedulerConfig
from diptych.scheduling.holding import PromptNeed, prompt_need, publish_block, take_block
from diptych.scheduling.queues import Roster
from diptych.scheduling.sequence import Sequence


class Steady(NamedTuple):
    """The next step runs one token of each running sequence and does nothing else."""

    decodes: int
    """Sequences in the batch."""
    context_tokens: int
    """KV tokens that stand before the next step, over all of the batch."""
    steps: int
    """So many such steps follow each other before one ends a sequence or something else happens; 0 if
    already the next one ends a sequence."""


class Leaper:
    """Looks ahead in a roster and a pool, and moves both ahead."""

    def __init__(self, config: SchedulerConfig, roster: Roster, pool: BlockPool, batcher: Batcher) -> None:
        self._config = config
        self._roster = roster
        self._pool = pool
        self._batcher = batcher

    # ------------------------------------------------------------ looking ahead

    def steady(self) -> Steady | None:
        """What is ahead, or None: the next step admits, bounces or prefills (or would admit a prompt if its
        decodes did not grow just then)."""
        running = self._roster.running
        if not running or len(running) > self._config.token_budget:
            return None
        if any(sequence.phase is Phase.PREFILL for sequence in running):
            return None
        head = need = None
        if self._admits():
            if self._roster.imports:
                return None
            head = self._roster.prefills.head
        if head is not None:
            need = prompt_need(head, self._pool)
            if not self._batcher.must_wait(need):
                return None
        limit = min(sequence.steps_left for sequence in running)
        room = self._steps_with_room(max(limit, 1), need)
        if not room:
            return None
        if head is not None and need is not None:
            limit = min(limit, self._steps_without_match(head, need))
        context_tokens = sum(sequence.computed for sequence in running)
        return Steady(len(running), context_tokens, min(limit, room))

    def _admits(self) -> bool:
        """Whether a step looks at who waits."""
        running = len(self._roster.running)
        return running < self._config.max_running and running < self._config.token_budget

    def _steps_with_room(self, limit: int, need: PromptNeed | None) -> int:
        """The largest number of steps up to ``limit`` for which every decode finds its block."""
        evictable = self._evictable(need)

        def fits(steps: int) -> bool:
            grown = [
                (growths(sequence, steps), sequence.reserved_blocks) for sequence in self._roster.running
            ]
            taken = sum(blocks - reserved for blocks, reserved in grown if blocks > reserved)
            if taken > self._pool.available_blocks:
                return False
            return evictable is None or sum(blocks for blocks, _ in grown) <= evictable

        return limit if fits(limit) else _last(fits, limit)

    def _evictable(self, need: PromptNeed | None) -> int | None:
        """Blocks that may be taken before a waiting prompt loses a part of its prefix, if that matters (None:
        it doesn't). It does for a prompt that fits the arena only because of what it borrows behind that."""
        if need is None or need.fresh + len(need.prefix) <= self._pool.arena.blocks:
            return None
        return self._pool.obtainable_before(need.local)

    def _steps_without_match(self, head: Sequence, need: PromptNeed) -> int:
        """Steps after which the waiting prompt may find its next block published by a sequence whose tokens
        have been the same so far: from then on it needs less."""
        index = len(need.prefix)
        ends = [
            (index + 1) * self._config.block_tokens - sequence.computed
            for sequence in self._roster.running
            if self._config.prompt_cache and _may_publish(sequence, head, index)
        ]
        return min(ends, default=self._pool.arena.blocks * self._config.block_tokens)

    # ------------------------------------------------------------ moving ahead

    def leap(self, steps: int, token_id: TokenId) -> None:
        """Do what ``steps`` steps do to the sequences and to the pool. The caller has asked how many."""
        rows = self._roster.in_phase(Phase.DECODE)
        if any(token_id in sequence.work.sampling.stop_token_ids for sequence in rows):
            raise Bug(f"token {token_id} would end a sequence in the middle of a leap")
        moments: list[tuple[int, int, int]] = []
        for rank, sequence in enumerate(rows):
            moments += self._moments(rank, sequence, steps)
            sequence.tokens.extend([token_id] * steps)
        moments.sort()
        for _, published, rank in moments:
            if published:
                publish_block(rows[rank], self._pool)
            else:
                take_block(rows[rank], self._pool)
        for sequence in rows:
            sequence.computed += steps

    def _moments(self, rank: int, sequence: Sequence, steps: int) -> list[tuple[int, int, int]]:
        """When a sequence grows (step, 0, rank) and publishes (step, 1, rank). Within a step all grow before
        the first publishes, each time in the order of the rows; block ids and evictions depend on that."""
        block_tokens, computed = self._config.block_tokens, sequence.computed
        first = len(sequence.block_table) * block_tokens - computed
        moments = [(step, 0, rank) for step in range(first, steps, block_tokens)]
        if self._config.prompt_cache:
            filled = block_tokens - 1 - computed % block_tokens
            moments += [(step, 1, rank) for step in range(filled, steps, block_tokens)]
        return moments


def growths(sequence: Sequence, steps: int) -> int:
    """Blocks that a decode takes in its next ``steps`` steps."""
    first = len(sequence.block_table) * sequence.block_tokens - sequence.computed
    return max(0, -((first - steps) // sequence.block_tokens))


def _last(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number below ``limit`` that fits, by halving; 0 always does, ``limit`` does not."""
    good, bad = 0, limit
    while bad - good > 1:
        middle = (good + bad) // 2
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good


def _may_publish(sequence: Sequence, head: Sequence, index: int) -> bool:
    """Whether ``sequence`` could still come to compute block ``index`` of the waiting ``head``."""
    known, full = len(sequence.tokens), sequence.full_blocks
    if full > index or index >= head.matchable_blocks:
        return False
    if sequence.block_name(full - 1) != head.block_name(full - 1):
        return False
    start = full * head.block_tokens
    return list(sequence.tokens[start:]) == list(head.tokens[start:known])
