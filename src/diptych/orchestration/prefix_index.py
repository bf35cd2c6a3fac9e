"""Where the blocks of a prefix are cached, per memory domain.

Knows: hash → who has it and in which block, as told by `BlocksCached` and `BlocksEvicted`. Does not know: who
may borrow, how many blocks fit anywhere. It may lag behind the truth: a lease names what is really still
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from diptych.domain.errors import Bug
from diptych.domain.ids import BlockHash, BlockId, DomainId, WorkerId


class Copy:
    """One worker's copy of a block, and the copies that others cached after it."""

    __slots__ = ("block_id", "holder", "next")

    def __init__(self, holder: Holder, block_id: BlockId) -> None:
        self.holder = holder
        self.block_id = block_id
        self.next: Copy | None = None


class Holder:
    """One worker's cached blocks. ``copies`` are those of its whole domain."""

    __slots__ = ("alone", "blocks", "copies", "owner")

    def __init__(self, owner: WorkerId, copies: dict[BlockHash, Copy]) -> None:
        self.owner = owner
        self.copies = copies
        self.blocks = 0
        """How many it has."""
        self.alone: Holders = (self,)
        """Shared by all blocks that nobody else has."""

    def ids(self, hashes: Sequence[BlockHash]) -> tuple[BlockId, ...]:
        """Its blocks with these hashes, all of which it has."""
        return tuple([self._own(self.copies[it]).block_id for it in hashes])

    def _own(self, first: Copy) -> Copy:
        copy: Copy | None = first
        while copy is not None:
            if copy.holder is self:
                return copy
            copy = copy.next
        raise Bug(f"{self.owner} has no copy of a block that it is asked for")


Holders: TypeAlias = tuple[Holder, ...]
"""Who has one block, in the order in which they cached it."""


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
        self._domains: dict[DomainId, dict[BlockHash, Copy]] = {}
        """The first copy of each block."""
        self._holders: dict[WorkerId, Holder] = {}
        self.additions = 0
        """How often somebody said that blocks can be found now."""

    def cached(
        self,
        domain: DomainId,
        owner: WorkerId,
        hashes: tuple[BlockHash, ...],
        block_ids: tuple[BlockId, ...],
    ) -> None:
        """``owner`` can be asked for these blocks from now on."""
        self.additions += 1
        copies = self._domains.get(domain)
        if copies is None:
            copies = self._domains[domain] = {}
        holder = self._holders.get(owner)
        if holder is None:
            holder = self._holders[owner] = Holder(owner, copies)
        if len(hashes) != len(block_ids):
            raise Bug(f"{owner} names {len(hashes)} hashes for {len(block_ids)} blocks")
        for i in range(len(hashes)):
            there = copies.get(hashes[i])
            if there is None:
                copies[hashes[i]] = Copy(holder, block_ids[i])
                holder.blocks += 1
            elif _join(there, holder, block_ids[i]):
                holder.blocks += 1

    def evicted(self, domain: DomainId, owner: WorkerId, hashes: Sequence[BlockHash]) -> None:
        """It can not any more."""
        holder = self._holders.get(owner)
        if holder is not None:
            self._remove(self._domains.get(domain, {}), holder, hashes)

    def forget(self, domain: DomainId, owner: WorkerId) -> None:
        """The owner is dead, and what it had cached can not be asked for."""
        holder = self._holders.pop(owner, None)
        if holder is not None:
            copies = self._domains.get(domain, {})
            self._remove(copies, holder, list(copies))

    def leading(self, domain: DomainId, hashes: Sequence[BlockHash]) -> list[Stretch]:
        """The longest leading run that is cached somewhere, cut where its holders change."""
        copies = self._domains.get(domain)
        run: list[Stretch] = []
        if not copies:
            return run
        start = stop = 0
        last: Holders = ()
        for block_hash in hashes:
            copy = copies.get(block_hash)
            if copy is None:
                break
            holders = copy.holder.alone if copy.next is None else _holders(copy)
            if holders is not last and holders != last:
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

    def _remove(self, copies: dict[BlockHash, Copy], holder: Holder, hashes: Sequence[BlockHash]) -> None:
        for block_hash in hashes:
            first = copies.get(block_hash)
            if first is None:
                continue
            if first.holder is not holder:
                holder.blocks -= _leave(first, holder)
                continue
            holder.blocks -= 1
            if first.next is None:
                del copies[block_hash]
            else:
                copies[block_hash] = first.next


def _join(copy: Copy, holder: Holder, block_id: BlockId) -> bool:
    """Add a copy behind the others, or say where the holder's own is now. Whether it is a new one."""
    while copy.holder is not holder:
        if copy.next is None:
            copy.next = Copy(holder, block_id)
            return True
        copy = copy.next
    copy.block_id = block_id
    return False


def _leave(copy: Copy, holder: Holder) -> bool:
    """Take the holder's copy out of those behind this one; whether there was one."""
    following = copy.next
    while following is not None:
        if following.holder is holder:
            copy.next = following.next
            return True
        copy, following = following, following.next
    return False


def _holders(first: Copy) -> Holders:
    found: list[Holder] = []
    copy: Copy | None = first
    while copy is not None:
        found.append(copy.holder)
        copy = copy.next
    return tuple(found)
