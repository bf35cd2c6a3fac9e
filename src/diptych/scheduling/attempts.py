"""Which attempts are here, and how each of them ends.

Knows: names, attempts, what may not end yet because somebody uses its blocks. Does not know: what is in a
step, when one is due.
"""

from __future__ import annotations

from typing import Final

from diptych.domain.errors import Bug
from diptych.domain.events import Bounced, Dropped, Finished, WorkerEvent
from diptych.domain.ids import RequestId
from diptych.domain.request import FinishReason, Phase
from diptych.scheduling.batcher import Batch
from diptych.scheduling.block_pool import BlockPool
from diptych.scheduling.holding import give_back
from diptych.scheduling.queues import Roster
from diptych.scheduling.sequence import Sequence

# Bound once: a lookup in an enumeration costs several times as much as one of a constant, and these are made
# for every request.
_DECODE: Final = Phase.DECODE
_PREFILL: Final = Phase.PREFILL


class Attempts:
    """The sequences by name. Their ends go to ``outbox``."""

    def __init__(self, roster: Roster, pool: BlockPool, outbox: list[WorkerEvent]) -> None:
        self.flight: Batch | None = None
        """The step under way."""
        self.ended: list[RequestId] = []
        """Names that the engine knows and need not any more."""
        self._roster = roster
        self._pool = pool
        self._outbox = outbox
        self._latest: dict[RequestId, Sequence] = {}
        self._ending: dict[tuple[RequestId, int], Sequence] = {}  # dropped, but somebody uses their blocks

    def meet(self, sequence: Sequence) -> Sequence:
        """Take note of a new attempt. An older attempt that is still here ends silently (through `ended`, so
        that the engine never mixes the two up)."""
        older = self._latest.get(sequence.request_id)
        if older is not None:
            if older.attempt >= sequence.attempt:
                raise Bug(
                    f"{sequence.request_id}: attempt {sequence.attempt} starts after attempt {older.attempt}"
                )
            self._end_soon(older, answers=0)
        self._latest[sequence.request_id] = sequence
        return sequence

    def drop(self, request_id: RequestId, attempt: int) -> None:
        """Obey the order to forget an attempt, now or as soon as that is safe."""
        sequence = self._latest.get(request_id)
        if sequence is None or sequence.attempt != attempt:
            sequence = self._ending.get((request_id, attempt))
        if sequence is None:
            self._outbox.append(Dropped(request_id, attempt))
        else:
            self._end_soon(sequence, answers=1)

    def _end_soon(self, sequence: Sequence, answers: int) -> None:
        """End now, or when nobody writes into its blocks any more: at the commit of the step that computes
        with it, at the end of its transfer. Then give so many answers."""
        sequence.dropped = True
        sequence.drop_answers += answers
        if self._computes(sequence) or self._roster.fetching.under_way(sequence):
            self._ending[sequence.request_id, sequence.attempt] = sequence
        else:
            self.settle_drop(sequence)

    def _computes(self, sequence: Sequence) -> bool:
        """Whether it is in the step under way."""
        batch = self.flight
        if batch is None or not sequence.running:
            return False
        if sequence.phase is _DECODE:
            return self._roster.decodes.among_first(sequence, batch.decodes)
        return any(item is sequence for item, _ in batch.chunks)

    def settle_drop(self, sequence: Sequence) -> None:
        """Nobody uses the blocks of a dropped sequence any more."""
        self._ending.pop((sequence.request_id, sequence.attempt), None)
        self.end(sequence)
        answer = Dropped(sequence.request_id, sequence.attempt)
        self._outbox.extend([answer] * sequence.drop_answers)

    def end(self, sequence: Sequence) -> None:
        """Part with a sequence that waits or runs, and with all it holds."""
        ran = sequence.running
        self._roster.remove(sequence)
        give_back(sequence, self._pool)
        self.forget(sequence, ran)

    def forget(self, sequence: Sequence, ran: bool) -> None:
        """The name is free again; an engine that has heard of it is told with the next step."""
        if self._latest.get(sequence.request_id) is sequence:
            del self._latest[sequence.request_id]
        if ran:
            self.ended.append(sequence.request_id)

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """It has all its tokens."""
        self.end(sequence)
        self._outbox.append(Finished(sequence.request_id, sequence.attempt, reason))

    def bounce(self, sequence: Sequence, reason: str) -> None:
        """Give back a sequence that is in no queue any more and that the engine has not heard of."""
        give_back(sequence, self._pool)
        self.given_back(sequence, reason, ran=False)

    def given_back(self, sequence: Sequence, reason: str, ran: bool) -> None:
        """It holds nothing any more and is to be placed again. ``ran``: whether the engine knows it."""
        self.forget(sequence, ran)
        self._outbox.append(Bounced(sequence.request_id, sequence.attempt, reason))

    def decode_of(self, request_id: RequestId) -> Sequence | None:
        """The latest attempt, if it decodes in the step under way and was not dropped."""
        sequence = self._latest.get(request_id)
        if sequence is None or sequence.phase is _PREFILL or sequence.dropped:
            return None
        return sequence if self._computes(sequence) else None

    def dropped_decodes(self) -> list[Sequence]:
        """Decodes of the step under way that end with it."""
        if not self._ending:
            return []
        return [item for item in self._ending.values() if item.running and item.phase is _DECODE]

    def check(self) -> None:
        """Raise `Bug` unless everyone known waits or runs."""
        for sequence in [*self._latest.values(), *self._ending.values()]:
            if sequence not in list(self._roster):
                raise Bug(f"{sequence.request_id} is known but neither waits nor runs")
