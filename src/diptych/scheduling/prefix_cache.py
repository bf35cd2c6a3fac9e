"""Which blocks of one arena can be found by hash, and which of those may be given up.

Knows: hash ↔ block, the order in which idle blocks are given up, the news about both. Does not know:
reference counts (the block pool does, and says when a block falls idle or is wanted again), requests.
"""

from __future__ import annotations

from itertools import groupby

from diptych.domain.errors import Bug
from diptych.domain.events import BlocksCached, BlocksEvicted
from diptych.domain.ids import BlockHash, BlockId


class PrefixCache:
    """Named blocks. A named block is *idle* when nobody refers to it; only idle blocks are evicted, the one
    that has been idle longest first."""

    def __init__(self) -> None:
        self._block_of: dict[BlockHash, BlockId] = {}
        self._hash_of: dict[BlockId, BlockHash] = {}
        self._idle: dict[BlockId, None] = {}  # insertion order is eviction order
        self._news: list[tuple[BlockHash, BlockId | None]] = []  # None: evicted

    @property
    def idle_blocks(self) -> int:
        """How many blocks may be evicted."""
        return len(self._idle)

    def idle_before(self, block_ids: frozenset[BlockId]) -> int:
        """Blocks that are evicted before the first of these is."""
        for place, block_id in enumerate(self._idle):
            if block_id in block_ids:
                return place
        return len(self._idle)

    def find(self, block_hash: BlockHash) -> BlockId | None:
        """The block with this content, if there is one."""
        return self._block_of.get(block_hash)

    def names(self, block_id: BlockId) -> bool:
        """Whether the block can be found by hash."""
        return block_id in self._hash_of

    def is_idle(self, block_id: BlockId) -> bool:
        """Whether the block is named and nobody refers to it."""
        return block_id in self._idle

    def publish(self, block_hash: BlockHash, block_id: BlockId) -> bool:
        """Name a block that somebody refers to. False if its content is named already by another block."""
        if block_id in self._hash_of:
            raise Bug(f"block {block_id} is published twice")
        if block_hash in self._block_of:
            return False
        self._block_of[block_hash] = block_id
        self._hash_of[block_id] = block_hash
        self._news.append((block_hash, block_id))
        return True

    def rest(self, block_id: BlockId) -> None:
        """The last reference is gone: the block becomes the most recent idle one."""
        if block_id not in self._hash_of or block_id in self._idle:
            raise Bug(f"block {block_id} can't fall idle")
        self._idle[block_id] = None

    def wake(self, block_id: BlockId) -> None:
        """Somebody refers to the idle block again."""
        del self._idle[block_id]

    def evict(self) -> BlockId:
        """Forget the block that has been idle longest and hand it out."""
        block_id = next(iter(self._idle))
        del self._idle[block_id]
        block_hash = self._hash_of.pop(block_id)
        del self._block_of[block_hash]
        self._news.append((block_hash, None))
        return block_id

    def drain_news(self) -> list[BlocksCached | BlocksEvicted]:
        """What was published and evicted since the last call, in the order in which it happened."""
        news, self._news = self._news, []
        return [
            _event(list(run), cached) for cached, run in groupby(news, key=lambda item: item[1] is not None)
        ]

    def check(self) -> None:
        """Raise `Bug` unless both directions agree and every idle block is named."""
        if {block: name for name, block in self._block_of.items()} != self._hash_of:
            raise Bug("the cache's two directions disagree")
        if not self._idle.keys() <= self._hash_of.keys():
            raise Bug("an idle block has no name")


def _event(run: list[tuple[BlockHash, BlockId | None]], cached: bool) -> BlocksCached | BlocksEvicted:
    hashes = tuple(block_hash for block_hash, _ in run)
    if not cached:
        return BlocksEvicted(hashes=hashes)
    return BlocksCached(hashes=hashes, block_ids=tuple(block for _, block in run if block is not None))
