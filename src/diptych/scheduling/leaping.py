"""Many equal steps at once: how long a batch that only decodes, or goes on with one prompt beside its
decodes, stays as it is, and what it is afterwards.

In virtual time nobody waits for a single token, so a simulator asks for the next step that is not like the
one before. Stepping decides what is right: a leap leaves exactly what its steps would have left.

Knows: when decodes grow, publish and end; what keeps a waiting prompt waiting. Does not know: seconds,
engines, commands.
"""

from __future__ import annotations

from collections.abc import Callable

from diptych.domain.errors import Bug
from diptych.domain.ids import TokenId
from diptych.scheduling.batcher import Batcher
from diptych.scheduling.block_pool import BlockPool
from diptych.scheduling.config import SchedulerConfig
from diptych.scheduling.holding import PromptNeed, prompt_need, publish_full
from diptych.scheduling.queues import Roster
from diptych.scheduling.sequence import Sequence


class Steady:
    """The next step runs one token of each decoding sequence, perhaps a chunk in the middle of a prompt, and
    does nothing else."""

    __slots__ = ("cached_tokens", "context_tokens", "decodes", "new_tokens", "steps")

    def __init__(
        self, decodes: int, context_tokens: int, steps: int, new_tokens: int = 0, cached_tokens: int = 0
    ) -> None:
        self.decodes = decodes
        """Sequences that decode."""
        self.context_tokens = context_tokens
        """KV tokens that stand before the next step, over all that decode."""
        self.steps = steps
        """So many such steps follow each other before one ends a sequence or something else happens; 0 if
        already the next one ends a sequence."""
        self.new_tokens = new_tokens
        """Prompt tokens of each step; 0 if it only decodes."""
        self.cached_tokens = cached_tokens
        """KV tokens of that prompt before the next step."""


class Leaper:
    """Looks ahead in a roster and a pool, and moves both ahead."""

    def __init__(self, config: SchedulerConfig, roster: Roster, pool: BlockPool, batcher: Batcher) -> None:
        self._token_budget = config.token_budget
        self._block_tokens = config.block_tokens
        self._prompt_cache = config.prompt_cache
        self._roster = roster
        self._decodes = roster.decodes
        self._pool = pool
        self._batcher = batcher

    # ------------------------------------------------------------ looking ahead

    def steady(self, at_most: int | None) -> Steady | None:
        """What is ahead, or None: the next step admits, bounces, or begins or ends a prompt (or would admit a
        prompt if its decodes did not grow just then)."""
        decodes = self._decodes
        running = len(decodes.sequences)
        if running > self._token_budget:
            return None
        if self._roster.imports.sequences and self._batcher.looks_at_imports():
            return None
        if self._roster.prefilling and running < self._token_budget:
            return self._steady_chunks(self._roster.prefilling[0], at_most)
        if not running:
            return None
        head, need = self._roster.prefills.head, None
        if head is not None and self._batcher.looks_at_prompts():
            if self._batcher.fits_anyway(head):
                return None
            need = prompt_need(head, self._pool)
            if not self._batcher.must_wait(need):
                return None
        limit = self._rounds_left(at_most)
        room = self._steps_with_room(limit or 1, need)
        if not room:
            return None
        if head is not None and need is not None and self._prompt_cache:
            limit = min(limit, self._steps_without_match(head, need))
        return Steady(running, decodes.context_tokens, min(limit, room))

    def _steady_chunks(self, prompt: Sequence, at_most: int | None) -> Steady | None:
        """The same while ``prompt``, the first of those that have begun, takes all of the budget."""
        new_tokens = self._batcher.next_chunk(prompt)
        if not new_tokens:
            return None
        steps = (prompt.remaining - 1) // new_tokens
        running, context_tokens = len(self._decodes.sequences), self._decodes.context_tokens
        if running:
            limit = min(steps, self._rounds_left(at_most))
            room = self._steps_with_room(limit or 1, None)
            if not room:
                return None
            steps = min(limit, room)
        elif at_most is not None:
            steps = min(steps, at_most)
        return Steady(running, context_tokens, steps, new_tokens, prompt.computed)

    def _rounds_left(self, at_most: int | None) -> int:
        """Rounds before the one that ends a sequence, or ``at_most``."""
        decodes = self._decodes
        end = decodes.next_end()
        limit = (decodes.round if end is None else end) - decodes.round - 1
        return limit if at_most is None else min(limit, at_most)

    def _steps_with_room(self, limit: int, need: PromptNeed | None) -> int:
        """The largest number of steps up to ``limit`` for which every decode finds its block."""
        available = self._pool.available_blocks
        evictable = None if need is None else self._evictable(need)
        growths = len(self._decodes.sequences) * (1 + limit // self._block_tokens)
        if evictable is None and growths <= available:
            return limit  # whoever grows, and however promised
        rooms = [(self._decodes.room(item), item.reserved_blocks) for item in self._decodes.sequences]

        def fits(steps: int) -> bool:
            grown = [(self._growths(room, steps), reserved) for room, reserved in rooms]
            if sum(blocks - reserved for blocks, reserved in grown if blocks > reserved) > available:
                return False
            return evictable is None or sum(blocks for blocks, _ in grown) <= evictable

        return limit if fits(limit) else _last(fits, limit)

    def _growths(self, room: int, steps: int) -> int:
        """Blocks taken in so many steps by a sequence whose blocks have room for ``room`` of them."""
        return max(0, -((room - steps) // self._block_tokens))

    def _evictable(self, need: PromptNeed) -> int | None:
        """Blocks that may be taken before a waiting prompt loses a part of its prefix, if that matters (None:
        it doesn't). It does for a prompt that fits the arena only because of what it borrows behind that."""
        if need.fresh + len(need.prefix) <= self._pool.arena.blocks:
            return None
        return self._pool.obtainable_before(need.local)

    def _steps_without_match(self, head: Sequence, need: PromptNeed) -> int:
        """Steps after which the waiting prompt may find its next block published by a sequence whose tokens
        have been the same so far: from then on it needs less."""
        index = len(need.prefix)
        stop = (index + 1) * self._block_tokens
        if index >= head.matchable_blocks:
            return self._pool.arena.blocks * self._block_tokens
        ends = [
            stop - self._decodes.computed(sequence)
            for sequence in self._decodes.sequences
            if self._decodes.computed(sequence) < stop and self._may_publish(sequence, head)
        ]
        return min(ends, default=self._pool.arena.blocks * self._block_tokens)

    def _may_publish(self, sequence: Sequence, head: Sequence) -> bool:
        """Whether all tokens of ``sequence`` are those of the waiting ``head``."""
        self._decodes.catch_up(sequence)
        full, known = sequence.full_blocks, sequence.tokens
        if sequence.block_name(full - 1) != head.block_name(full - 1):
            return False
        start = full * head.block_tokens
        return list(sequence.tokens_in(start, known)) == list(head.tokens_in(start, known))

    # ------------------------------------------------------------ moving ahead

    def leap(self, steady: Steady, steps: int, token_id: TokenId) -> None:
        """Do what ``steps`` steps of ``steady`` do to the sequences and to the pool."""
        decodes = self._decodes
        if steady.decodes:
            decodes.fill_with(token_id)
        left = steps
        while left:
            for sequence in decodes.full.copy():
                if not decodes.grow(sequence, self._pool):
                    raise Bug(f"{sequence.request_id} finds no block in the middle of a leap")
            due = decodes.next_due()
            rounds = left if due is None else min(left, due - decodes.round)
            self._prefill(steady, rounds - 1)
            if steady.decodes:
                decodes.advance(rounds)
            for sequence in decodes.filled():
                if self._prompt_cache:
                    publish_full(sequence, self._pool)
            self._prefill(steady, 1)  # in each step the chunk is written down after the decodes
            left -= rounds

    def _prefill(self, steady: Steady, steps: int) -> None:
        if not steady.new_tokens or not steps:
            return
        prompt = self._roster.prefilling[0]
        prompt.computed += steps * steady.new_tokens
        if self._prompt_cache:
            publish_full(prompt, self._pool)


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
