"""Prompts that grow, as hash ids.

Knows: which block of a prompt is shared with which other prompt. Does not know: why a prompt grows.
"""

from __future__ import annotations

from itertools import count


class Ids:
    """Ids of blocks: even ones for prefixes that many prompts share, odd ones for what is new."""

    def __init__(self, families: int) -> None:
        self._families = families
        self._fresh = count(1, 2)

    def fresh(self, blocks: int) -> list[int]:
        """Blocks that nobody had before."""
        return [next(self._fresh) for _ in range(blocks)]

    def shared(self, family: int, blocks: int) -> list[int]:
        """The first blocks of a family's prefix, which has no end."""
        return [2 * (place * self._families + family) for place in range(blocks)]


class Context:
    """What a session has said so far, in tokens and in ids of full blocks."""

    def __init__(self, ids: Ids, block_tokens: int, shared_tokens: int, family: int) -> None:
        self.tokens = shared_tokens
        self._ids = ids
        self._block_tokens = block_tokens
        self._full = ids.shared(family, shared_tokens // block_tokens)

    def grow(self, tokens: int) -> None:
        """More is said: a prompt's new part, or an output."""
        self.tokens += tokens

    def prompt(self) -> tuple[int, ...]:
        """Ids of a prompt with all of it. A last block that is not full belongs to this prompt alone."""
        full, rest = divmod(self.tokens, self._block_tokens)
        self._full += self._ids.fresh(full - len(self._full))
        return (*self._full, *self._ids.fresh(1 if rest else 0))
