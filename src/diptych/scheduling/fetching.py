"""Sequences whose KV comes from another memory domain.

    StartDecode(source) ──▶ fetching ──fetched──▶ import queue ──▶ running
                              │  ▲                (all blocks its own)
                              │  └ drop: waits, since somebody writes into its blocks
                              └──fetch_failed──▶ bounced

Knows: which blocks have to be filled from where, who waits for that. Does not know: how bytes travel.
"""

from __future__ import annotations

from typing import NamedTuple

from diptych.domain.errors import Bug
from diptych.domain.ids import BlockId, RequestId, WorkerId
from diptych.scheduling.sequence import Sequence


class Fetch(NamedTuple):
    """One transfer, block by block: ``source_block_ids`` in the domain of ``source`` to ``target_block_ids``
    in this worker's arena. The last one may be partly filled."""

    request_id: RequestId
    attempt: int
    source: WorkerId
    source_block_ids: tuple[BlockId, ...]
    target_block_ids: tuple[BlockId, ...]
    tokens: int
    """KV tokens that travel."""


class Fetching:
    """Sequences that wait for their KV, by name and attempt: an older attempt may still wait for the end of
    its transfer when a newer one comes."""

    def __init__(self) -> None:
        self.sequences: dict[tuple[RequestId, int], Sequence] = {}
        self._orders: dict[tuple[RequestId, int], Fetch] = {}

    def add(self, sequence: Sequence, fetch: Fetch) -> None:
        """A sequence has its blocks; their content has to come."""
        self.sequences[sequence.request_id, sequence.attempt] = sequence
        self._orders[sequence.request_id, sequence.attempt] = fetch

    def drain_orders(self) -> list[Fetch]:
        """Transfers to perform, each once."""
        orders, self._orders = self._orders, {}
        return list(orders.values())

    def under_way(self, sequence: Sequence) -> bool:
        """Whether a transfer that has been given out writes into the blocks of this sequence."""
        key = (sequence.request_id, sequence.attempt)
        return self.sequences.get(key) is sequence and key not in self._orders

    def pop(self, request_id: RequestId, attempt: int) -> Sequence:
        """The transfer has ended, well or not. Raises `Bug` if there is none."""
        key = (request_id, attempt)
        if key not in self.sequences or key in self._orders:
            raise Bug(f"{request_id}: no transfer for attempt {attempt} is under way")
        return self.sequences.pop(key)

    def remove(self, sequence: Sequence) -> bool:
        """Call off a transfer that has not been given out; False if there is none."""
        key = (sequence.request_id, sequence.attempt)
        if self.sequences.get(key) is not sequence:
            return False
        del self.sequences[key], self._orders[key]
        return True
