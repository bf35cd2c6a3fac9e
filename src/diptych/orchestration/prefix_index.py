"""Where the blocks of a prefix are cached, per memory domain.

Knows: hash → {owner: block id}, as told by `BlocksCached` and `BlocksEvicted`. Does not know: who may borrow,
how many blocks fit anywhere. It may lag behind the truth: a lease names what is really still there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diptych.domain.ids import BlockHash, BlockId, DomainId, WorkerId

Owners = Mapping[WorkerId, BlockId]
"""Owners of one block in the order in which they cached it."""


class PrefixIndex:
    """One prompt cache per domain, whoever computed the blocks."""

    def __init__(self) -> None:
        self._domains: dict[DomainId, dict[BlockHash, dict[WorkerId, BlockId]]] = {}
        self._hashes: dict[WorkerId, dict[BlockHash, None]] = {}

    def cached(
        self, domain: DomainId, owner: WorkerId, hashes: Sequence[BlockHash], block_ids: Sequence[BlockId]
    ) -> None:
        """``owner`` can be asked for these blocks from now on."""
        owners_of = self._domains.setdefault(domain, {})
        own = self._hashes.setdefault(owner, {})
        for block_hash, block_id in zip(hashes, block_ids, strict=True):
            owners_of.setdefault(block_hash, {})[owner] = block_id
            own[block_hash] = None

    def evicted(self, domain: DomainId, owner: WorkerId, hashes: Sequence[BlockHash]) -> None:
        """It can not any more."""
        own = self._hashes.get(owner, {})
        for block_hash in hashes:
            own.pop(block_hash, None)
            self._remove(domain, owner, block_hash)

    def forget(self, domain: DomainId, owner: WorkerId) -> None:
        """The owner is dead, and what it had cached can not be asked for."""
        for block_hash in self._hashes.pop(owner, {}):
            self._remove(domain, owner, block_hash)

    def leading(self, domain: DomainId, hashes: Sequence[BlockHash]) -> list[Owners]:
        """Owners of each block of the longest leading run that is cached somewhere."""
        owners_of = self._domains.get(domain, {})
        run: list[Owners] = []
        for block_hash in hashes:
            owners = owners_of.get(block_hash)
            if owners is None:
                break
            run.append(owners)
        return run

    def owned_blocks(self, owner: WorkerId) -> int:
        """How many blocks can be found at ``owner``."""
        return len(self._hashes.get(owner, {}))

    def owners(self) -> tuple[WorkerId, ...]:
        """All who have something cached."""
        return tuple(sorted(owner for owner, hashes in self._hashes.items() if hashes))

    def _remove(self, domain: DomainId, owner: WorkerId, block_hash: BlockHash) -> None:
        owners_of = self._domains.get(domain, {})
        owners = owners_of.get(block_hash, {})
        owners.pop(owner, None)
        if not owners:
            owners_of.pop(block_hash, None)
