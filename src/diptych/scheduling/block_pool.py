"""The blocks of one arena: who holds each of them, and how many are promised.

Knows: the free list, reference counts, leases, reservations, the prompt cache. Does not know: requests,
tokens, other arenas.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from diptych.domain.errors import Bug
from diptych.domain.events import BlocksCached, BlocksEvicted
from diptych.domain.ids import BlockHash, BlockId, LeaseId
from diptych.domain.worker import Arena
from diptych.scheduling.prefix_cache import PrefixCache


class BlockPool:
    """Accounting of ``arena``. Every block of it is in exactly one of three states::

        free ──allocate, draw──▶ held ──last reference gone──▶ idle (named in the cache)
         ▲                        │ ▲                            │ │
         └──last reference gone───┘ └──────────hold, lend────────┘ │
              (no name)             └──────allocate, draw evict────┘

        |◀──────────── arena ─────────────▶|
        |   free   |   idle    |   held    |
        |◀─ obtainable ───────▶|            taken from `free` first, then the longest idle is evicted
        |  reserved |available |            `available` = obtainable - reserved: what anyone may take

    *Held* blocks carry a count of references; each belongs to one holder: a sequence of this worker, or a
    lease (a borrower elsewhere). `export` moves a sequence's references to a lease without touching counts.
    *Reserved* is a number, not a set of blocks: so many obtainable blocks are kept for those who `draw`.
    Waking an idle block costs one available block, so a reservation can't be undermined by prefix hits.

    ``adopted``: leases that an earlier incarnation granted; their blocks are held from the start, and their
    content is known to the borrowers only (they have no name).
    """

    def __init__(self, arena: Arena, adopted: Mapping[LeaseId, tuple[BlockId, ...]] | None = None) -> None:
        self._arena = arena
        self._leases: dict[LeaseId, tuple[BlockId, ...]] = dict(adopted or {})
        adopted_blocks = Counter([block for blocks in self._leases.values() for block in blocks])
        foreign = [block for block in adopted_blocks if block not in arena]
        if foreign:
            raise Bug(f"adopted leases name blocks {foreign} outside of {arena}")
        ids = range(arena.start, arena.start + arena.blocks)
        self._start = arena.start
        self._references = [adopted_blocks[block] for block in ids]
        """By place in the arena."""
        self._held = len(adopted_blocks)
        # Last in, first out: a block that was used lately is likelier to be in a CPU cache.
        self._free: list[BlockId] = [block for block in reversed(ids) if block not in adopted_blocks]
        self._reserved = 0
        self._cache = PrefixCache(arena)

    # ------------------------------------------------------------ counts

    @property
    def arena(self) -> Arena:
        """The block ids that this pool hands out."""
        return self._arena

    @property
    def free_blocks(self) -> int:
        """Blocks that hold nothing."""
        return len(self._free)

    @property
    def cached_blocks(self) -> int:
        """Blocks that only the prompt cache holds."""
        return self._cache.idle_blocks

    @property
    def held_blocks(self) -> int:
        """Blocks that sequences or leases hold."""
        return self._held

    @property
    def reserved_blocks(self) -> int:
        """Blocks that are promised and not drawn yet."""
        return self._reserved

    @property
    def available_blocks(self) -> int:
        """Blocks that can be taken by whoever has no reservation."""
        return len(self._free) + self._cache.idle_blocks - self._reserved

    def obtainable_before(self, block_ids: Sequence[BlockId]) -> int:
        """Blocks that can be taken before the first of these (held or idle) is evicted."""
        return len(self._free) + self._cache.idle_before(frozenset(block_ids))

    @property
    def leases(self) -> Mapping[LeaseId, tuple[BlockId, ...]]:
        """Blocks of each lease."""
        return self._leases

    # ------------------------------------------------------------ reservations

    def reserve(self, blocks: int) -> bool:
        """Promise ``blocks`` to somebody who will `draw` them. False, and nothing is promised, if too few
        are available."""
        if blocks > self.available_blocks:
            return False
        self._reserved += blocks
        return True

    def cancel(self, blocks: int) -> None:
        """Take a promise back."""
        if blocks > self._reserved:
            raise Bug(f"cancels {blocks} reserved blocks of {self._reserved}")
        self._reserved -= blocks

    def draw(self, blocks: int = 1) -> list[BlockId]:
        """Take promised blocks; the caller gets a reference to each."""
        self.cancel(blocks)
        return self._obtain(blocks)

    # ------------------------------------------------------------ references

    def allocate(self, blocks: int) -> list[BlockId]:
        """Take unpromised blocks; the caller gets a reference to each. Raises `Bug` if too few are
        available: callers look first."""
        if blocks > self.available_blocks:
            raise Bug(f"wants {blocks} blocks, {self.available_blocks} are available")
        return self._obtain(blocks)

    def hold(self, block_ids: list[BlockId]) -> None:
        """One more reference to each of these held or idle blocks. An idle one costs an available block
        (`is_idle`)."""
        references = self._references
        for block_id in block_ids:
            place = self._place(block_id)
            if not references[place]:
                self._wake(block_id)
                self._held += 1
            references[place] += 1

    def release(self, block_ids: list[BlockId]) -> None:
        """Give up one reference to each. The last block falls idle first, so that a chain is evicted from
        its end: a block without its predecessors can't be found."""
        references, there = self._references, cast(list[object], block_ids)  # why: `prefix_cache`
        gone: list[object] = []
        for i in range(len(there) - 1, -1, -1):
            block_id = there[i]
            place = self._place(cast(BlockId, block_id))
            held = references[place]
            if not held:
                raise Bug(f"block {block_id} is released but not held")
            references[place] = held - 1
            if held == 1:
                gone.append(block_id)
        self._held -= len(gone)
        self._free += self._cache.rest(cast(list[BlockId], gone))

    def is_idle(self, block_id: BlockId) -> bool:
        """Whether only the prompt cache holds the block."""
        return self._cache.is_idle(block_id)

    def is_exclusive(self, block_id: BlockId) -> bool:
        """Whether there is one reference and no name: its one holder may write into it."""
        return self._references[self._place(block_id)] == 1 and not self._cache.names(block_id)

    # ------------------------------------------------------------ leases

    def lend(self, lease_id: LeaseId, hashes: Iterable[BlockHash]) -> tuple[BlockId, ...]:
        """Lease the longest leading run of ``hashes`` that is here and can be held. Empty: no lease."""
        self._no_lease_yet(lease_id)
        run: list[BlockId] = []
        for block_hash in hashes:
            block_id = self.find(block_hash)
            if block_id is None or (self._cache.is_idle(block_id) and self.available_blocks < 1):
                break
            self.hold([block_id])
            run.append(block_id)
        if run:
            self._leases[lease_id] = tuple(run)
        return tuple(run)

    def export(self, lease_id: LeaseId, block_ids: Iterable[BlockId]) -> None:
        """The caller's references become the lease's."""
        self._no_lease_yet(lease_id)
        self._leases[lease_id] = tuple(block_ids)

    def release_lease(self, lease_id: LeaseId) -> None:
        """The borrower is done. An unknown lease is ignored: it may never have come into being."""
        self.release(list(self._leases.pop(lease_id, ())))

    # ------------------------------------------------------------ prompt cache

    def find(self, block_hash: BlockHash) -> BlockId | None:
        """The block with this content, if there is one."""
        return self._cache.block_of.get(block_hash)

    def find_run(self, hashes: list[BlockHash], most: int) -> list[BlockId]:
        """The blocks of the leading ``hashes``, ``most`` at most, up to the first that is not here."""
        block_of = cast(dict[BlockHash, object], self._cache.block_of)
        run: list[object] = []
        for i in range(min(most, len(hashes))):
            block_id = block_of.get(hashes[i])
            if block_id is None:
                break
            run.append(block_id)
        return cast(list[BlockId], run)

    def count_idle(self, block_ids: Iterable[BlockId]) -> int:
        """How many of these different blocks only the prompt cache holds."""
        return self._cache.count_idle(block_ids)

    def publish(self, hashes: list[BlockHash], block_ids: list[BlockId]) -> None:
        """Name full blocks that the caller holds. One whose content another block has already gets none."""
        for block_id in block_ids:
            if not self._references[self._place(block_id)]:
                raise Bug(f"block {block_id} is published but not held")
        self._cache.publish(hashes, block_ids)

    def drain_news(self) -> list[BlocksCached | BlocksEvicted]:
        """What was published and evicted since the last call, in order."""
        return self._cache.drain_news()

    # ------------------------------------------------------------ invariants

    def check(self, holders: Iterable[Iterable[BlockId]] = (), reserved: int | None = None) -> None:
        """Raise `Bug` unless all invariants hold. ``holders``: the references that are not leases.
        ``reserved``: what the holders of reservations think is promised, if the caller knows."""
        self._cache.check()
        self._check_states()
        expected = Counter([block for blocks in self._leases.values() for block in blocks])
        for blocks in holders:
            expected.update(blocks)
        known = {self._start + place: held for place, held in enumerate(self._references) if held}
        if dict(expected) != known:
            raise Bug(f"references {known} differ from what holders have: {expected}")
        if self._held != len(known):
            raise Bug(f"{self._held} held blocks are counted, there are {len(known)}")
        if self.available_blocks < 0:
            raise Bug(f"{self._reserved} blocks are promised, too few are obtainable")
        if reserved is not None and reserved != self._reserved:
            raise Bug(f"{self._reserved} blocks are promised, holders think {reserved}")

    def _check_states(self) -> None:
        """Each block of the arena is in exactly one state."""
        for block_id in range(self._arena.start, self._arena.start + self._arena.blocks):
            states = self._free.count(block_id) + self.is_idle(block_id)
            states += self._references[self._place(block_id)] > 0
            if states != 1:
                raise Bug(f"block {block_id} is in {states} states")
            if self._cache.names(block_id) and block_id in self._free:
                raise Bug(f"free block {block_id} has a name")
        if self.free_blocks + self.cached_blocks + self.held_blocks != self._arena.blocks:
            raise Bug("a block outside of the arena is accounted for")

    # ------------------------------------------------------------ inside

    def _obtain(self, blocks: int) -> list[BlockId]:
        """From the free list, then from what has been idle longest."""
        free = self._free
        kept = max(0, len(free) - blocks)
        taken = free[kept:]
        taken.reverse()
        del free[kept:]
        if len(taken) < blocks:
            taken += self._cache.evict(blocks - len(taken))
        references, start = self._references, self._start
        for block_id in taken:
            references[block_id - start] = 1
        self._held += len(taken)
        return taken

    def _place(self, block_id: BlockId) -> int:
        place = block_id - self._start
        if place < 0 or place >= len(self._references):
            raise Bug(f"block {block_id} is outside of {self._arena}")
        return place

    def _wake(self, block_id: BlockId) -> None:
        if not self._cache.is_idle(block_id):
            raise Bug(f"block {block_id} is not there to be held")
        if self.available_blocks < 1:
            raise Bug(f"waking block {block_id} would break a reservation")
        self._cache.wake(block_id)

    def _no_lease_yet(self, lease_id: LeaseId) -> None:
        if lease_id in self._leases:
            raise Bug(f"lease {lease_id} exists already")
