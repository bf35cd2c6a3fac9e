"""What one request would take of a worker, in blocks of one size.

Knows: tokens that exist, output to reserve for. Does not know: who has room.
"""

from __future__ import annotations

from diptych.domain.kv import blocks_for


class Need:
    """One request on workers with blocks of ``block_tokens`` tokens."""

    __slots__ = (
        "_growth_blocks",
        "_whole_blocks",
        "block_tokens",
        "blocks",
        "next_blocks",
        "output_tokens",
        "tokens",
    )

    def __init__(self, tokens: int, output_tokens: int, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.tokens = tokens
        self.output_tokens = max(1, output_tokens)
        """Output that blocks are reserved for."""
        self.blocks = blocks_for(tokens, block_tokens)
        """For the tokens that exist."""
        self.next_blocks = blocks_for(tokens + 1, block_tokens)
        """For one more."""
        self._growth_blocks = blocks_for(output_tokens, block_tokens) + 1
        self._whole_blocks = blocks_for(tokens + output_tokens, block_tokens)

    def growth_alone(self, arena_blocks: int) -> int:
        """Blocks to set aside for the output by a worker that goes on with its own prefill: as much of it as
        is reserved for, and one for the last, partly filled block.

        Here and below never more than an otherwise empty worker has, or a long output could not run on a
        small one at all.
        """
        return max(1, min(self._growth_blocks, arena_blocks - self.blocks))

    def growth_lent(self, arena_blocks: int) -> int:
        """The same for a worker that borrows the tokens' blocks; the last one it copies."""
        return min(self._growth_blocks, arena_blocks)

    def growth_streamed(self, arena_blocks: int) -> int:
        """For a worker that fetches the KV into blocks of its own: the tokens and the output."""
        return min(self._whole_blocks, arena_blocks)
