"""Who has lent which blocks to which attempt.

Knows: every lease from the asking to the release, over the death of its owner. Does not know: why it was
asked.

    asked ──Leased──► granted ──released──► gone
      │ owner dead, or empty answer ─────► gone
    granted, owner dead: adopted by the owner's next incarnation; released there as soon as it joins
"""

from __future__ import annotations

from diptych.domain.commands import LeaseBlocks, ReleaseLease
from diptych.domain.errors import Bug
from diptych.domain.ids import BlockHash, BlockId, LeaseId, WorkerId
from diptych.orchestration.ledger import Hold, Ledger
from diptych.orchestration.outbox import Outbox
from diptych.orchestration.registry import Registry, Worker


class Lease:
    """``granted`` is False while the owner has not answered, or has not exported yet."""

    __slots__ = ("granted", "hold", "orphaned", "owner")

    def __init__(self, owner: WorkerId, hold: Hold) -> None:
        self.owner = owner
        self.hold = hold
        self.granted = False
        self.orphaned = False
        """Nobody waits for the answer any more: release it as soon as it comes."""


class Leases:
    """All leases that may exist, and the releases that wait for an owner to come back."""

    def __init__(self, ledger: Ledger, registry: Registry, outbox: Outbox) -> None:
        self._ledger = ledger
        self._registry = registry
        self._outbox = outbox
        self._leases: dict[LeaseId, Lease] = {}
        self._late: dict[WorkerId, dict[LeaseId, None]] = {}

    def __contains__(self, lease_id: LeaseId) -> bool:
        return lease_id in self._leases

    def __len__(self) -> int:
        return len(self._leases)

    def ask(
        self, lease_id: LeaseId, owner: Worker, hashes: tuple[BlockHash, ...], expected: tuple[BlockId, ...]
    ) -> None:
        """Ask ``owner`` for blocks; ``expected`` counts in the ledger until the answer is here."""
        self._open(lease_id, owner.worker_id, Hold(pins=expected))
        self._outbox.send(owner.ref, LeaseBlocks(lease_id, hashes))

    def expect_export(self, lease_id: LeaseId, owner: WorkerId) -> None:
        """A prefill was ordered that will end in this lease."""
        self._open(lease_id, owner, Hold())

    def grant(self, lease_id: LeaseId, block_ids: tuple[BlockId, ...]) -> bool:
        """The owner has answered. False if nobody waits for it: then it is released at once."""
        lease = self._leases.get(lease_id)
        if lease is None:
            return False
        lease.granted = True
        self._repin(lease, block_ids)
        if lease.orphaned:
            self.release(lease_id)
            return False
        if not block_ids:
            self._forget(lease_id)
        return True

    def export(self, lease_id: LeaseId, block_ids: tuple[BlockId, ...]) -> None:
        """The prefill is done: its owner holds these of its own blocks under the lease."""
        lease = self._leases[lease_id]
        lease.granted = True
        self._repin(lease, block_ids)

    def release(self, lease_id: LeaseId) -> None:
        """Nobody computes with the blocks any more. Unknown leases (never granted) are fine."""
        lease = self._forget(lease_id)
        if lease is None:
            return
        owner = self._registry.get(lease.owner)
        if owner is None:
            self._late.setdefault(lease.owner, {})[lease_id] = None
        else:
            self._registry.forgive(owner)
            self._outbox.send(owner.ref, ReleaseLease(lease_id))

    def orphan(self, lease_id: LeaseId) -> None:
        """The attempt that asked is over; the answer, when it comes, releases the lease."""
        self._leases[lease_id].orphaned = True

    def answered(self, lease_id: LeaseId) -> bool:
        """Whether nothing is to be waited for."""
        lease = self._leases.get(lease_id)
        return lease is None or lease.granted

    def owner_lost(self, owner: WorkerId) -> tuple[LeaseId, ...]:
        """Forget what it never answered; returns those leases. What it granted stays."""
        unanswered = tuple(
            lease_id for lease_id, lease in self._leases.items() if lease.owner == owner and not lease.granted
        )
        for lease_id in unanswered:
            self._forget(lease_id)
        return unanswered

    def owner_joined(self, owner: Worker) -> None:
        """Release what was adopted at its start and is over by now."""
        for lease_id in self._late.pop(owner.worker_id, {}):
            self._outbox.send(owner.ref, ReleaseLease(lease_id))

    def adopted(self, owner: WorkerId) -> dict[LeaseId, tuple[BlockId, ...]]:
        """What the next incarnation of ``owner`` has to hold from its start."""
        return {
            lease_id: lease.hold.pins
            for lease_id, lease in self._leases.items()
            if lease.owner == owner and lease.granted
        }

    def blocks(self, lease_id: LeaseId) -> tuple[BlockId, ...]:
        """Its blocks, as far as known; none if it does not exist."""
        lease = self._leases.get(lease_id)
        return lease.hold.pins if lease is not None else ()

    def ids(self) -> tuple[LeaseId, ...]:
        """All leases in the order in which they were asked."""
        return tuple(self._leases)

    def orphans(self) -> tuple[LeaseId, ...]:
        """Those that wait for a late answer."""
        return tuple(lease_id for lease_id, lease in self._leases.items() if lease.orphaned)

    def holds(self) -> list[tuple[WorkerId, Hold]]:
        """What the leases hold in the ledger."""
        return [(lease.owner, lease.hold) for lease in self._leases.values()]

    def _open(self, lease_id: LeaseId, owner: WorkerId, hold: Hold) -> None:
        if lease_id in self._leases:
            raise Bug(f"lease {lease_id} exists already")
        self._leases[lease_id] = Lease(owner, hold)
        self._ledger.hold(owner, hold)

    def _repin(self, lease: Lease, block_ids: tuple[BlockId, ...]) -> None:
        hold = lease.hold
        lease.hold = Hold(pins=hold.pins if hold.pins == block_ids else block_ids)  # mostly as expected
        self._ledger.exchange(lease.owner, hold, lease.hold)

    def _forget(self, lease_id: LeaseId) -> Lease | None:
        lease = self._leases.pop(lease_id, None)
        if lease is not None:
            self._ledger.release(lease.owner, lease.hold)
        return lease
