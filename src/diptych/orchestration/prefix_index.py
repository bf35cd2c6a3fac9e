"""Where the blocks of a prefix are cached, per memory domain.

Knows: hash → who has it and in which block, as told by `BlocksCached` and `BlocksEvicted`. Does not know: who
may borrow, how many blocks fit anywhere. It may lag behind the truth: a lease names what is really still
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from diptych.domain.errors import Bug
from diptych.domain.ids import BlockHash, BlockId, DomainId, WorkerId

_SHARED: Final = 1
"""Bit of an entry: others have cached the block, too."""
_HOLDER: Final = 0xFFFFE
"""Bits that say who has the block; those above say which of its blocks it is."""
_BLOCK: Final = 20
"""The first of those."""

# An entry is one number and not an object: there is one for every cached block, they are made and given up
# all the time, and what is looked up at random should be small.


class Holder:
    """One worker's cached blocks."""

    __slots__ = ("alone", "blocks", "domain", "mark", "owner")

    def __init__(self, owner: WorkerId, domain: _Domain, mark: int) -> None:
        self.owner = owner
        self.domain = domain
        self.mark = mark
        """Its number in the domain, as it stands in an entry."""
        self.blocks = 0
        """How many it has."""
        self.alone: Holders = (self,)
        """Shared by all blocks that nobody else has."""

    def ids(self, hashes: Sequence[BlockHash]) -> tuple[BlockId, ...]:
        """Its blocks with these hashes, all of which it has."""
        return tuple([self.domain.block_of(it, self) for it in hashes])


Holders: TypeAlias = tuple[Holder, ...]
"""Who has one block, in the order in which they cached it."""


class _Domain:
    """The cached blocks of one memory domain."""

    __slots__ = ("_free", "_holders", "first", "more")

    def __init__(self) -> None:
        self.first: dict[BlockHash, int] = {}
        """Who cached a block first."""
        self.more: dict[BlockHash, list[int]] = {}
        """Who did after that, where anybody did."""
        self._holders: list[Holder] = []
        self._free: list[int] = []

    def enter(self, owner: WorkerId) -> Holder:
        """A holder with a number of its own."""
        if self._free:
            number = self._free.pop()
            holder = self._holders[number] = Holder(owner, self, number << 1)
            return holder
        number = len(self._holders)
        if number << 1 > _HOLDER:
            raise Bug(f"{number} workers have cached blocks in one memory domain")
        holder = Holder(owner, self, number << 1)
        self._holders.append(holder)
        return holder

    def leave(self, holder: Holder) -> None:
        """It has nothing any more."""
        self.remove(holder, list(self.first))
        self._free.append(holder.mark >> 1)

    def holders_of(self, block_hash: BlockHash, entry: int) -> Holders:
        """Whoever has the block that ``entry`` is of."""
        holder = self._holders[(entry & _HOLDER) >> 1]
        if not entry & _SHARED:
            return holder.alone
        return (holder, *[self._holders[(it & _HOLDER) >> 1] for it in self.more[block_hash]])

    def block_of(self, block_hash: BlockHash, holder: Holder) -> BlockId:
        """The holder's own. Raises `Bug` if it has none."""
        entry = self.first[block_hash]
        if entry & _HOLDER == holder.mark:
            return BlockId(entry >> _BLOCK)
        for other in self.more.get(block_hash, ()):
            if other & _HOLDER == holder.mark:
                return BlockId(other >> _BLOCK)
        raise Bug(f"{holder.owner} has no copy of a block that it is asked for")

    def add(self, holder: Holder, hashes: tuple[BlockHash, ...], block_ids: tuple[BlockId, ...]) -> None:
        """It has these blocks from now on."""
        first, mark, known = self.first, holder.mark, len(self.first)
        for i in range(len(hashes)):
            entry = block_ids[i] << _BLOCK | mark
            there = first.setdefault(hashes[i], entry)  # one look: mostly nobody has it
            if len(first) > known:
                known += 1
                holder.blocks += 1
            elif there & _HOLDER == mark:
                first[hashes[i]] = entry | there & _SHARED
            elif _join(self.more.setdefault(hashes[i], []), entry):
                first[hashes[i]] = there | _SHARED
                holder.blocks += 1

    def remove(self, holder: Holder, hashes: Sequence[BlockHash]) -> None:
        """It has them no more."""
        first, mark = self.first, holder.mark
        for block_hash in hashes:
            entry = first.pop(block_hash, None)  # one look: mostly nobody else has it
            if entry is None:
                continue
            if entry & _SHARED:
                first[block_hash] = self._without(holder, block_hash, entry)
            elif entry & _HOLDER == mark:
                holder.blocks -= 1
            else:
                first[block_hash] = entry

    def _without(self, holder: Holder, block_hash: BlockHash, first: int) -> int:
        """The first entry of a block that several have, when this one has it no more."""
        entries = [first & ~_SHARED, *self.more[block_hash]]
        left = [it for it in entries if it & _HOLDER != holder.mark]
        holder.blocks -= len(entries) - len(left)
        if len(left) > 1:
            self.more[block_hash] = left[1:]
            return left[0] | _SHARED
        del self.more[block_hash]
        return left[0]


def _join(entries: list[int], entry: int) -> bool:
    """Add an entry behind the others, or put it in the place of its holder's. Whether it is a new one."""
    for i in range(len(entries)):
        if entries[i] & _HOLDER == entry & _HOLDER:
            entries[i] = entry
            return False
    entries.append(entry)
    return True


class Stretch:
    """Neighbouring blocks ``[start, stop)`` of a sequence that the same workers have."""

    __slots__ = ("holders", "start", "stop")

    def __init__(self, start: int, stop: int, holders: Holders) -> None:
        self.start = start
        self.stop = stop
        self.holders = holders


class PrefixIndex:
    """One prompt cache per domain, whoever computed the blocks."""

    def __init__(self) -> None:
        self._domains: dict[DomainId, _Domain] = {}
        self._holders: dict[WorkerId, Holder] = {}
        self.additions = 0
        """How often somebody said that blocks can be found now."""

    def __len__(self) -> int:
        """Blocks that can be found anywhere, each once for each domain."""
        return sum(len(domain.first) for domain in self._domains.values())

    def cached(
        self,
        domain: DomainId,
        owner: WorkerId,
        hashes: tuple[BlockHash, ...],
        block_ids: tuple[BlockId, ...],
    ) -> None:
        """``owner`` can be asked for these blocks from now on."""
        self.additions += 1
        if len(hashes) != len(block_ids):
            raise Bug(f"{owner} names {len(hashes)} hashes for {len(block_ids)} blocks")
        holder = self._holders.get(owner)
        if holder is None:
            there = self._domains.get(domain)
            if there is None:
                there = self._domains[domain] = _Domain()
            holder = self._holders[owner] = there.enter(owner)
        holder.domain.add(holder, hashes, block_ids)

    def evicted(self, owner: WorkerId, hashes: Sequence[BlockHash]) -> None:
        """It can not any more."""
        holder = self._holders.get(owner)
        if holder is not None:
            holder.domain.remove(holder, hashes)

    def forget(self, owner: WorkerId) -> None:
        """The owner is dead, and what it had cached can not be asked for."""
        holder = self._holders.pop(owner, None)
        if holder is not None:
            holder.domain.leave(holder)

    def leading(self, domain: DomainId, hashes: Sequence[BlockHash]) -> list[Stretch]:
        """The longest leading run that is cached somewhere, cut where its holders change."""
        there = self._domains.get(domain)
        run: list[Stretch] = []
        if there is None:
            return run
        first = there.first
        start = stop = 0
        last: Holders = ()
        before = -1
        for block_hash in hashes:
            entry = first.get(block_hash)
            if entry is None:
                break
            who = entry & (_HOLDER | _SHARED)
            if who != before or who & _SHARED:
                before = who
                holders = there.holders_of(block_hash, entry)
                if holders != last:
                    if last:
                        run.append(Stretch(start, stop, last))
                    start, last = stop, holders
            stop += 1
        if last:
            run.append(Stretch(start, stop, last))
        return run

    def owned_blocks(self, owner: WorkerId) -> int:
        """How many blocks can be found at ``owner``."""
        holder = self._holders.get(owner)
        return 0 if holder is None else holder.blocks

    def owners(self) -> tuple[WorkerId, ...]:
        """All who have something cached."""
        return tuple(sorted([owner for owner, holder in self._holders.items() if holder.blocks]))
