"""Which blocks of one arena can be found by hash, and which of those may be given up.

Knows: hash ↔ block, the order in which idle blocks are given up, the news about both. Does not know:
reference counts (the block pool does, and says when a block falls idle or is wanted again), requests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import cast

from diptych.domain.errors import Bug
from diptych.domain.events import BlocksCached, BlocksEvicted
from diptych.domain.ids import BlockHash, BlockId
from diptych.domain.worker import Arena

# Where many block ids go from one list to another, they are handled as the objects that they are: compiled
# code makes a new one of every `BlockId` that it puts somewhere.


class News:
    """A run of equal news: published, or (without blocks) evicted."""

    __slots__ = ("block_ids", "cached", "hashes")

    def __init__(self, cached: bool) -> None:
        self.cached = cached
        self.hashes: list[BlockHash] = []
        self.block_ids: list[BlockId] = []


class PrefixCache:
    """Named blocks. A named block is *idle* when nobody refers to it; only idle blocks are evicted, the one
    that has been idle longest first.

    Blocks that fall idle together *rest* as one list, last to be given up first. A block that is wanted again
    only forgets where it rests; its place in the list is passed over later. So neither falling idle nor being
    given up looks anything up.

    Whoever looks at many blocks may read ``block_of``; only this class changes it.
    """

    def __init__(self, arena: Arena) -> None:
        self.block_of: dict[BlockHash, BlockId] = {}
        self.idle_blocks = 0
        self._rest_of: list[list[BlockId] | None] = [None] * arena.blocks
        """By place in the arena: the list in which the block rests; None: it is not idle."""
        self._rests: deque[list[BlockId]] = deque()
        """The longest idle first. May hold places of blocks that do not rest there any more."""
        self._places = 0
        """In all of them."""
        self._start = arena.start
        self._hash_of: list[BlockHash | None] = [None] * arena.blocks
        """By place in the arena."""
        self._news: list[News] = []

    def idle_before(self, block_ids: frozenset[BlockId]) -> int:
        """Blocks that are evicted before the first of these is."""
        for count, block_id in enumerate(self.resting()):
            if block_id in block_ids:
                return count
        return self.idle_blocks

    def resting(self) -> Iterator[BlockId]:
        """Idle blocks in the order in which they are given up."""
        for rest in self._rests:
            for block_id in reversed(rest):
                if self._rest_of[block_id - self._start] is rest:
                    yield block_id

    def is_idle(self, block_id: BlockId) -> bool:
        """Whether nobody refers to the named block."""
        return self._rest_of[block_id - self._start] is not None

    def count_idle(self, block_ids: Iterable[BlockId]) -> int:
        """How many of these different blocks are idle."""
        rest_of, start = self._rest_of, self._start
        idle = 0
        for block_id in block_ids:
            if rest_of[block_id - start] is not None:
                idle += 1
        return idle

    def names(self, block_id: BlockId) -> bool:
        """Whether the block can be found by hash."""
        return self._hash_of[block_id - self._start] is not None

    def publish(self, hashes: list[BlockHash], block_ids: list[BlockId]) -> None:
        """Name blocks that somebody refers to. One whose content is named already stays without a name."""
        block_of = cast(dict[BlockHash, object], self.block_of)
        hash_of, start, there = self._hash_of, self._start, cast(list[object], block_ids)
        fresh: list[object] = []
        names: list[BlockHash] = []
        if len(hashes) != len(there):
            raise Bug(f"{len(there)} blocks are published under {len(hashes)} names")
        for i in range(len(hashes)):
            block_hash, block_id = hashes[i], there[i]
            place = cast(int, block_id) - start
            if hash_of[place] is not None:
                raise Bug(f"block {block_id} is published twice")
            if block_of.setdefault(block_hash, block_id) is block_id:
                hash_of[place] = block_hash
                fresh.append(block_id)
                names.append(block_hash)
        if fresh:
            news = self._run(True)
            news.block_ids.extend(cast(list[BlockId], fresh))
            news.hashes.extend(names)

    def rest(self, block_ids: list[BlockId]) -> list[BlockId]:
        """The last references are gone: named blocks become the most recent idle ones, in this order. Returns
        those without a name."""
        hash_of, rest_of, start = self._hash_of, self._rest_of, self._start
        nameless: list[object] = []
        there: list[object] = []
        rest = cast(list[BlockId], there)
        for block_id in cast(list[object], block_ids):
            place = cast(int, block_id) - start
            if hash_of[place] is None:
                nameless.append(block_id)
            else:
                rest_of[place] = rest
                there.append(block_id)
        if rest:
            rest.reverse()
            self._rests.append(rest)
            self.idle_blocks += len(rest)
            self._places += len(rest)
            if self._places > 2 * len(rest_of):
                self._tidy()
        return cast(list[BlockId], nameless)

    def wake(self, block_id: BlockId) -> None:
        """Somebody refers to the idle block again."""
        self._rest_of[block_id - self._start] = None
        self.idle_blocks -= 1

    def evict(self, blocks: int) -> list[BlockId]:
        """Forget the blocks that have been idle longest and hand them out."""
        if blocks > self.idle_blocks:
            raise Bug(f"{blocks} blocks are evicted, {self.idle_blocks} are idle")
        hash_of, rest_of, rests, start = self._hash_of, self._rest_of, self._rests, self._start
        hashes = self._run(False).hashes
        evicted: list[object] = []
        while len(evicted) < blocks:
            rest = rests[0]
            taken = rest[len(evicted) - blocks :]
            del rest[len(evicted) - blocks :]
            self._places -= len(taken)
            taken.reverse()
            for block_id in cast(list[object], taken):
                place = cast(int, block_id) - start
                if rest_of[place] is not rest:
                    continue
                block_hash = hash_of[place]
                if block_hash is None:
                    raise Bug(f"block {block_id} is idle and has no name")
                hash_of[place] = rest_of[place] = None
                del self.block_of[block_hash]
                hashes.append(block_hash)
                evicted.append(block_id)
            if not rest:
                rests.popleft()
        self.idle_blocks -= blocks
        return cast(list[BlockId], evicted)

    def drain_news(self) -> list[BlocksCached | BlocksEvicted]:
        """What was published and evicted since the last call, in the order in which it happened."""
        found: list[BlocksCached | BlocksEvicted] = []
        for run in self._news:
            if run.cached:
                found.append(BlocksCached(tuple(run.hashes), tuple(run.block_ids)))
            else:
                found.append(BlocksEvicted(tuple(run.hashes)))
        self._news.clear()
        return found

    def check(self) -> None:
        """Raise `Bug` unless both directions agree and every idle block is named."""
        named = {self._start + place: it for place, it in enumerate(self._hash_of) if it is not None}
        if {block: name for name, block in self.block_of.items()} != named:
            raise Bug("the cache's two directions disagree")
        resting = list(self.resting())
        if not named.keys() >= set(resting):
            raise Bug("an idle block has no name")
        if len(resting) != len(set(resting)) or len(resting) != self.idle_blocks:
            raise Bug(f"{self.idle_blocks} idle blocks are counted, {len(resting)} rest")
        if self.count_idle(named) != self.idle_blocks:
            raise Bug("a block rests nowhere that is marked as idle")
        if self._places != sum(map(len, self._rests)):
            raise Bug(f"{self._places} places are counted")

    def _tidy(self) -> None:
        """Without the places of blocks that do not rest there any more. As rare as it is dear."""
        rest_of, start = self._rest_of, self._start
        for rest in self._rests:
            rest[:] = [it for it in rest if rest_of[it - start] is rest]
        self._rests = deque([rest for rest in self._rests if rest])
        self._places = self.idle_blocks

    def _run(self, cached: bool) -> News:
        """The last run if it is of this kind, else a new one."""
        if not self._news or self._news[-1].cached is not cached:
            self._news.append(News(cached))
        return self._news[-1]
