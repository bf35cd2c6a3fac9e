"""Blocks set aside for sequences that are prefilled elsewhere, or whose start is on its way.

Knows: one promise for each request, its attempt, what a newer attempt means for it. Does not know: sequences
that wait or run.
"""

from __future__ import annotations

from collections.abc import Iterator

from diptych.domain.commands import Reserve, StartDecode
from diptych.domain.errors import Bug
from diptych.domain.events import Reserved, ReserveRefused
from diptych.domain.ids import RequestId
from diptych.scheduling.block_pool import BlockPool
from diptych.scheduling.sequence import Sequence


class Promises:
    """Sequences that are expected here; blocks of the pool are reserved for them."""

    def __init__(self, pool: BlockPool, block_tokens: int) -> None:
        self._pool = pool
        self._block_tokens = block_tokens
        self._expected: dict[RequestId, Sequence] = {}

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._expected.values())

    def reserve(self, command: Reserve) -> Reserved | ReserveRefused:
        """Promise, if there is room. A promise to an older attempt is void."""
        name, attempt = command.request_id, command.attempt
        self.forget(name, up_to_attempt=attempt)
        if name in self._expected:
            raise Bug(f"{name}: attempt {attempt} reserves after a newer one")
        if not self._pool.reserve(command.blocks):
            return ReserveRefused(name, attempt, self._pool.available_blocks)
        promise = Sequence.to_expect(command.work, self._block_tokens)
        promise.reserved_blocks = command.blocks
        self._expected[name] = promise
        return Reserved(name, attempt)

    def expected(self, command: StartDecode) -> Sequence:
        """The sequence that was reserved for, with what is new. It keeps its promise."""
        sequence = self._expected.get(command.request_id)
        if sequence is None or sequence.attempt != command.attempt:
            raise Bug(f"{command.request_id}: attempt {command.attempt} decodes without a reservation")
        sequence.take_over(command)
        del self._expected[command.request_id]
        return sequence

    def claim(self, sequence: Sequence) -> int:
        """The blocks promised to this attempt; promises to older ones are void."""
        promise = self._expected.get(sequence.request_id)
        if promise is not None and promise.attempt == sequence.attempt:
            del self._expected[sequence.request_id]
            return promise.reserved_blocks
        self.forget(sequence.request_id, up_to_attempt=sequence.attempt)
        return 0

    def drop(self, request_id: RequestId, attempt: int) -> None:
        """Take the promise to this attempt back, if there is one."""
        promise = self._expected.get(request_id)
        if promise is not None and promise.attempt == attempt:
            self.forget(request_id, attempt)

    def forget(self, request_id: RequestId, up_to_attempt: int) -> None:
        """Take back what is promised to this attempt or an older one."""
        promise = self._expected.get(request_id)
        if promise is not None and promise.attempt <= up_to_attempt:
            del self._expected[request_id]
            self._pool.cancel(promise.reserved_blocks)
