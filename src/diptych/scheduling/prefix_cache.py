"""Which blocks of one arena can be found by hash, and which of those may be given up.

Knows: hash ↔ block, the order in which idle blocks are given up, the news about both. Does not know:
reference counts (the block pool does, and says when a block falls idle or is wanted again), requests.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from diptych.domain.errors import Bug
from diptych.domain.events import BlocksCached, BlocksEvicted
from diptych.domain.ids import BlockHash, BlockId
from diptych.domain.worker import Arena


class News(NamedTuple):
    """A run of equal news: published, or (without blocks) evicted."""

    cached: bool
    hashes: list[BlockHash]
    block_ids: list[BlockId]


class PrefixCache:
    """Named blocks. A named block is *idle* when nobody refers to it; only idle blocks are evicted, the one
    that has been idle longest first.

    Whoever looks at many blocks may read ``block_of``, ``idle`` and ``news``; only this class changes them.
    """

    def __init__(self, arena: Arena) -> None:
        self.block_of: dict[BlockHash, BlockId] = {}
        self.idle: OrderedDict[BlockId, None] = OrderedDict()
        """Insertion order is eviction order. (To find the first key of a plain dict takes the longer the more
        first keys have been deleted.)"""
        self._start = arena.start
        self._hash_of: list[BlockHash | None] = [None] * arena.blocks
        """By place in the arena."""
        self.news: list[News] = []
        """Always the same list, so that others can see cheaply whether there is any."""

    def idle_before(self, block_ids: frozenset[BlockId]) -> int:
        """Blocks that are evicted before the first of these is."""
        for place, block_id in enumerate(self.idle):
            if block_id in block_ids:
                return place
        return len(self.idle)

    def names(self, block_id: BlockId) -> bool:
        """Whether the block can be found by hash."""
        return self._hash_of[block_id - self._start] is not None

    def publish(self, hashes: Sequence[BlockHash], block_ids: Sequence[BlockId]) -> None:
        """Name blocks that somebody refers to. One whose content is named already stays without a name."""
        block_of, hash_of, start = self.block_of, self._hash_of, self._start
        fresh: list[BlockId] = []
        names: list[BlockHash] = []
        for block_hash, block_id in zip(hashes, block_ids, strict=True):
            if hash_of[block_id - start] is not None:
                raise Bug(f"block {block_id} is published twice")
            if block_hash not in block_of:
                block_of[block_hash] = block_id
                hash_of[block_id - start] = block_hash
                fresh.append(block_id)
                names.append(block_hash)
        if fresh:
            news = self._run(True)
            news.block_ids.extend(fresh)
            news.hashes.extend(names)

    def rest(self, block_ids: list[BlockId]) -> list[BlockId]:
        """The last references are gone: named blocks become the most recent idle ones, in this order. Returns
        those without a name."""
        hash_of, idle, start = self._hash_of, self.idle, self._start
        nameless: list[BlockId] = []
        for block_id in block_ids:
            if hash_of[block_id - start] is None:
                nameless.append(block_id)
            else:
                idle[block_id] = None
        return nameless

    def wake(self, block_id: BlockId) -> None:
        """Somebody refers to the idle block again."""
        del self.idle[block_id]

    def evict(self, blocks: int) -> list[BlockId]:
        """Forget the blocks that have been idle longest and hand them out."""
        block_ids = list(islice(self.idle, blocks))
        if len(block_ids) < blocks:
            raise Bug(f"{blocks} blocks are evicted, {len(block_ids)} are idle")
        hashes = self._run(False).hashes
        for block_id in block_ids:
            block_hash = self._hash_of[block_id - self._start]
            if block_hash is None:
                raise Bug(f"block {block_id} is idle and has no name")
            self._hash_of[block_id - self._start] = None
            del self.idle[block_id], self.block_of[block_hash]
            hashes.append(block_hash)
        return block_ids

    def drain_news(self) -> list[BlocksCached | BlocksEvicted]:
        """What was published and evicted since the last call, in the order in which it happened."""
        found: list[BlocksCached | BlocksEvicted] = []
        for cached, hashes, block_ids in self.news:
            if cached:
                found.append(BlocksCached(tuple(hashes), tuple(block_ids)))
            else:
                found.append(BlocksEvicted(tuple(hashes)))
        self.news.clear()
        return found

    def check(self) -> None:
        """Raise `Bug` unless both directions agree and every idle block is named."""
        named = {self._start + place: it for place, it in enumerate(self._hash_of) if it is not None}
        if {block: name for name, block in self.block_of.items()} != named:
            raise Bug("the cache's two directions disagree")
        if not self.idle.keys() <= named.keys():
            raise Bug("an idle block has no name")

    def _run(self, cached: bool) -> News:
        """The last run if it is of this kind, else a new one."""
        if not self.news or self.news[-1].cached is not cached:
            self.news.append(News(cached, [], []))
        return self.news[-1]
