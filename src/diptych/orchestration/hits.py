"""Which cached blocks of a prefix a prefill worker would use, and whose.

Knows: the longest leading run that its owners can spare. Does not know: why a worker is considered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from diptych.domain.ids import BlockHash, BlockId, WorkerId
from diptych.domain.kv import blocks_for
from diptych.orchestration.prefix_index import Holder, Stretch
from diptych.orchestration.seats import Seat

Part: TypeAlias = tuple[Holder, int, int]
"""Blocks ``[start, stop)`` of the sequence as one owner has them."""


@dataclass(slots=True)
class Hits:
    """The leading blocks of a sequence that need no computing."""

    parts: list[Part] = field(default_factory=list[Part])
    blocks: int = 0
    own: int = 0
    """Those that the prefill worker has itself."""
    new_pins: dict[WorkerId, int] = field(default_factory=dict[WorkerId, int])
    """How many of them nobody has pinned so far, by owner."""

    @property
    def own_share(self) -> float:
        """Share of the hits that needs no lease; 1 without any."""
        return self.own / self.blocks if self.blocks else 1.0

    def own_ids(self, owner: WorkerId, hashes: Sequence[BlockHash]) -> tuple[BlockId, ...]:
        """Blocks of ``owner`` among them."""
        own: tuple[BlockId, ...] = ()
        for holder, start, stop in self.parts:
            if holder.owner == owner:
                own += holder.ids(hashes[start:stop])
        return own

    def lent(self, prefill: WorkerId) -> dict[Holder, tuple[int, ...]]:
        """Owners other than the prefill worker → indices of the blocks that they would lend."""
        lent: dict[Holder, tuple[int, ...]] = {}
        for holder, start, stop in self.parts:
            if holder.owner != prefill:
                lent[holder] = (*lent.get(holder, ()), *range(start, stop))
        return lent


NO_HITS = Hits()
"""Shared, so not to be changed."""


class Run:
    """The leading cached blocks of one sequence in one memory domain, and what their owners can spare: as
    many blocks as they have room to let be pinned anew. Who has no seat lends nothing."""

    __slots__ = ("_hashes", "_seats", "_stretches", "_unpinned")

    def __init__(
        self, stretches: Sequence[Stretch], hashes: Sequence[BlockHash], seats: Mapping[WorkerId, Seat]
    ) -> None:
        self._stretches = stretches
        self._hashes = hashes
        self._seats = seats
        self._unpinned: dict[tuple[WorkerId, int], int] = {}

    def choose(self, prefer: WorkerId, less: tuple[WorkerId, int] | None = None) -> Hits:
        """The longest leading part that may be used, with one owner for each block.

        The prefill worker itself comes first (no lease needed), then the owner of the block before (fewer
        leases), then whoever cached it first. ``less``: an owner that must keep so many blocks more.
        """
        if not self._stretches:
            return NO_HITS
        hits = Hits()
        last: Holder | None = None
        for stretch in self._stretches:
            holders = stretch.holders
            own = _of(holders, prefer)
            if own is not None:
                self._take(hits, own, stretch.start, stretch.stop)
                hits.own += stretch.stop - stretch.start
                last = own
                continue
            order = holders if last is None or last not in holders else (last, *holders)
            order = [it for it in order if it.owner in self._seats]
            if order and self._can_spare(hits, order[0], stretch, less):
                last = order[0]
                self._take(hits, last, stretch.start, stretch.stop)
                continue
            last = self._take_singly(hits, order, stretch, less)
            if hits.blocks < stretch.stop:
                break
        return hits

    def _can_spare(
        self, hits: Hits, owner: Holder, stretch: Stretch, less: tuple[WorkerId, int] | None
    ) -> bool:
        """Whether it can lend the whole stretch."""
        pins = self._new_pins(owner, stretch.start, stretch.stop)
        taken = hits.new_pins.get(owner.owner, 0)
        return not pins or taken + pins <= self._limit(owner.owner, less)

    def _take_singly(
        self, hits: Hits, order: Sequence[Holder], stretch: Stretch, less: tuple[WorkerId, int] | None
    ) -> Holder | None:
        """Block by block, each from the first that can spare it, until nobody can."""
        last: Holder | None = None
        for index in range(stretch.start, stretch.stop):
            for owner in order if last is None else (last, *order):
                pins = self._new_pins(owner, index, index + 1)
                if not pins or hits.new_pins.get(owner.owner, 0) < self._limit(owner.owner, less):
                    self._take(hits, owner, index, index + 1)
                    last = owner
                    break
            else:
                break
        return last

    def _take(self, hits: Hits, owner: Holder, start: int, stop: int) -> None:
        hits.blocks = stop
        hits.new_pins[owner.owner] = hits.new_pins.get(owner.owner, 0) + self._new_pins(owner, start, stop)
        if hits.parts and hits.parts[-1][0] is owner:
            start = hits.parts.pop()[1]
        hits.parts.append((owner, start, stop))

    def _limit(self, owner: WorkerId, less: tuple[WorkerId, int] | None) -> int:
        return self._seats[owner].room_blocks - (less[1] if less is not None and less[0] == owner else 0)

    def _new_pins(self, owner: Holder, start: int, stop: int) -> int:
        """How many of its blocks there nobody has pinned."""
        pins = self._seats[owner.owner].account.pins
        if not pins:
            return stop - start
        key = (owner.owner, start) if stop - start > 1 else (owner.owner, -1 - start)
        known = self._unpinned.get(key)
        if known is None:
            ids = owner.ids(self._hashes[start:stop])
            known = self._unpinned[key] = stop - start - sum(map(pins.__contains__, ids))
        return known


def _of(holders: Sequence[Holder], owner: WorkerId) -> Holder | None:
    for holder in holders:
        if holder.owner == owner:
            return holder
    return None


def hashed_blocks(tokens: int, block_tokens: int) -> int:
    """Blocks that may be taken from a cache: whole ones, and never the last token, for something must be
    computed to sample from."""
    return blocks_for(tokens, block_tokens) - 1
