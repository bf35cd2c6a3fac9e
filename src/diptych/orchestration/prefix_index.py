"""Where the blocks of a prefix are cached, per memory domain.

Knows: hash → who has it and in which block, as told by `BlocksCached` and `BlocksEvicted`. Does not know: who
may borrow, how many blocks fit anywhere. It may lag behind the truth: a lease names what is really still
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from diptych.domain.ids import BlockHash, BlockId, DomainId, WorkerId


class Holder:
    """One worker's cached blocks."""

    __slots__ = ("alone", "blocks", "owner")

    def __init__(self, owner: WorkerId) -> None:
        self.owner = owner
        self.blocks: dict[BlockHash, BlockId] = {}
        self.alone: Holders = (self,)
        """Shared by all blocks that nobody else has."""

    def ids(self, hashes: Sequence[BlockHash]) -> tuple[BlockId, ...]:
        """Its blocks with these hashes, all of which it has."""
        return tuple(map(self.blocks.__getitem__, hashes))


Holders: TypeAlias = tuple[Holder, ...]
"""Who has one block, in the order in which they cached it."""


class Stretch(NamedTuple):
    """Neighbouring blocks ``[start, stop)`` of a sequence that the same workers have."""

    start: int
    stop: int
    holders: Holders


class PrefixIndex:
    """One prompt cache per domain, whoever computed the blocks."""

    def __init__(self) -> None:
        self._domains: dict[DomainId, dict[BlockHash, Holders]] = {}
        self._holders: dict[WorkerId, Holder] = {}
        self.additions = 0
        """How often somebody said that blocks can be found now."""

    def cached(
        self, domain: DomainId, owner: WorkerId, hashes: Sequence[BlockHash], block_ids: Sequence[BlockId]
    ) -> None:
        """``owner`` can be asked for these blocks from now on."""
        self.additions += 1
        holders_of = self._domains.get(domain)
        if holders_of is None:
            holders_of = self._domains[domain] = {}
        holder = self._holders.get(owner)
        if holder is None:
            holder = self._holders[owner] = Holder(owner)
        holder.blocks.update(zip(hashes, block_ids, strict=True))
        if holders_of.keys().isdisjoint(hashes):
            holders_of.update(dict.fromkeys(hashes, holder.alone))
            return
        for block_hash in hashes:
            holders = holders_of.get(block_hash)
            if holders is None:
                holders_of[block_hash] = holder.alone
            elif holder not in holders:
                holders_of[block_hash] = (*holders, holder)

    def evicted(self, domain: DomainId, owner: WorkerId, hashes: Sequence[BlockHash]) -> None:
        """It can not any more."""
        holder = self._holders.get(owner)
        if holder is not None:
            own = holder.blocks
            self._remove(domain, holder, [it for it in hashes if own.pop(it, None) is not None])

    def forget(self, domain: DomainId, owner: WorkerId) -> None:
        """The owner is dead, and what it had cached can not be asked for."""
        holder = self._holders.pop(owner, None)
        if holder is not None:
            self._remove(domain, holder, holder.blocks)

    def leading(self, domain: DomainId, hashes: Sequence[BlockHash]) -> list[Stretch]:
        """The longest leading run that is cached somewhere, cut where its holders change."""
        holders_of = self._domains.get(domain)
        run: list[Stretch] = []
        if not holders_of or not hashes or hashes[0] not in holders_of:
            return run
        start, last = 0, holders_of[hashes[0]]
        stop = 0
        for block_hash in hashes:
            holders = holders_of.get(block_hash)
            if holders is not last and holders != last:
                run.append(Stretch(start, stop, last))
                if holders is None:
                    return run
                start, last = stop, holders
            stop += 1
        run.append(Stretch(start, stop, last))
        return run

    def owned_blocks(self, owner: WorkerId) -> int:
        """How many blocks can be found at ``owner``."""
        holder = self._holders.get(owner)
        return 0 if holder is None else len(holder.blocks)

    def owners(self) -> tuple[WorkerId, ...]:
        """All who have something cached."""
        return tuple(sorted(owner for owner, holder in self._holders.items() if holder.blocks))

    def _remove(
        self, domain: DomainId, holder: Holder, hashes: Sequence[BlockHash] | dict[BlockHash, BlockId]
    ) -> None:
        holders_of = self._domains.get(domain, {})
        for block_hash in hashes:
            holders = holders_of[block_hash]
            if holders is holder.alone:
                del holders_of[block_hash]
            else:
                rest = [it for it in holders if it is not holder]
                holders_of[block_hash] = rest[0].alone if len(rest) == 1 else tuple(rest)
