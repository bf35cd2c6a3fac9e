"""Which cached blocks of a prefix a prefill worker would use, and whose.

Knows: the longest leading run that its owners can spare. Does not know: why a worker is considered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from diptych.domain.ids import BlockHash, BlockId, WorkerId
from diptych.domain.kv import blocks_for
from diptych.orchestration.prefix_index import Holder, Stretch
from diptych.orchestration.seats import Seat

Part: TypeAlias = tuple[Holder, int, int]
"""Blocks ``[start, stop)`` of the sequence as one owner has them."""

Less: TypeAlias = tuple[WorkerId, int]
"""An owner that must keep so many blocks more."""


class Hits:
    """The leading blocks of a sequence that need no computing. Not changed once they are chosen: several
    workers may share them."""

    __slots__ = ("blocks", "own", "parts")

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.blocks = 0
        self.own = 0
        """Those that the prefill worker has itself."""

    @property
    def own_share(self) -> float:
        """Share of the hits that needs no lease; 1 without any."""
        return self.own / self.blocks if self.blocks else 1.0

    def taken_of(self, owner: WorkerId) -> int:
        """How many of them this owner has. Added up when it is asked, which is rare: there are few parts."""
        taken = 0
        for holder, start, stop in self.parts:
            if holder.owner == owner:
                taken += stop - start
        return taken

    def new_pins(self, seat: Seat, hashes: Sequence[BlockHash]) -> int:
        """How many of them nobody has pinned so far at this owner."""
        ids = self.own_ids(seat.worker_id, hashes)
        return len(ids) - sum(map(seat.account.pins.__contains__, ids))

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


NO_HITS: Final = Hits()


class Run:
    """The leading cached blocks of one sequence in one memory domain, and what their owners can spare: as
    many blocks as they have room to let be pinned anew. Who has no seat lends nothing."""

    __slots__ = ("_hashes", "_of_others", "_owners", "_seats", "_stretches")

    def __init__(
        self, stretches: Sequence[Stretch], hashes: Sequence[BlockHash], seats: Mapping[WorkerId, Seat]
    ) -> None:
        self._stretches = stretches
        self._hashes = hashes
        self._seats = seats
        self._owners = {holder.owner for it in stretches for holder in it.holders}
        self._of_others: Hits | None = None
        """What any worker would use that has none of it."""

    def choose(self, prefer: WorkerId, less: Less | None = None) -> Hits:
        """The longest leading part that may be used, with one owner for each block.

        The prefill worker itself comes first (no lease needed), then the owner of the block before (fewer
        leases), then whoever cached it first.
        """
        if less is not None or prefer in self._owners:
            return self._choose(prefer, less)
        if self._of_others is None:
            self._of_others = self._choose(prefer, None)
        return self._of_others

    def _choose(self, prefer: WorkerId, less: Less | None) -> Hits:
        hits = Hits()
        last: Holder | None = None
        for stretch in self._stretches:
            start, stop, holders = stretch.start, stretch.stop, stretch.holders
            owner: Holder | None = None
            for holder in holders:
                if holder.owner == prefer:
                    owner = holder
                    hits.own += stop - start
                    break
            else:
                if last is not None and last in holders and last.owner in self._seats:
                    owner = last
                else:
                    owner = next((it for it in holders if it.owner in self._seats), None)
                if owner is None or not self._can_spare(hits, owner, start, stop, less):
                    last = self._take_singly(hits, last, start, stop, holders, less)
                    if hits.blocks < stop:
                        break
                    continue
            last = owner
            _take(hits, owner, start, stop)
        return hits

    def _can_spare(self, hits: Hits, owner: Holder, start: int, stop: int, less: Less | None) -> bool:
        """Whether it can lend all of these. Blocks that somebody has pinned already cost nothing; they are
        counted only where it matters."""
        limit = self._limit(owner.owner, less)
        if hits.taken_of(owner.owner) + stop - start <= limit:
            return True
        pins = self._new_pins(owner, start, stop)
        return not pins or self._taken_pins(hits, owner) + pins <= limit

    def _take_singly(
        self,
        hits: Hits,
        last: Holder | None,
        start: int,
        stop: int,
        holders: Sequence[Holder],
        less: Less | None,
    ) -> Holder | None:
        """Block by block, each from the first that can spare it, until nobody can."""
        order = [it for it in holders if it.owner in self._seats]
        for index in range(start, stop):
            for owner in order if last is None or last not in order else (last, *order):
                if self._can_spare(hits, owner, index, index + 1, less):
                    _take(hits, owner, index, index + 1)
                    last = owner
                    break
            else:
                break
        return last

    def _limit(self, owner: WorkerId, less: Less | None) -> int:
        room_blocks = self._seats[owner].room_blocks
        return room_blocks if less is None or less[0] != owner else room_blocks - less[1]

    def _new_pins(self, owner: Holder, start: int, stop: int) -> int:
        pins = self._seats[owner.owner].account.pins
        return stop - start - sum(map(pins.__contains__, owner.ids(self._hashes[start:stop])))

    def _taken_pins(self, hits: Hits, owner: Holder) -> int:
        return sum([self._new_pins(owner, start, stop) for it, start, stop in hits.parts if it is owner])


def _take(hits: Hits, owner: Holder, start: int, stop: int) -> None:
    hits.blocks = stop
    parts = hits.parts
    if parts and parts[-1][0] is owner:
        start = parts.pop()[1]
    parts.append((owner, start, stop))


def hashed_blocks(tokens: int, block_tokens: int) -> int:
    """Blocks that may be taken from a cache: whole ones, and never the last token, for something must be
    computed to sample from."""
    return blocks_for(tokens, block_tokens) - 1
