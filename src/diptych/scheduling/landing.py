"""What a step leaves behind when it is over.

Knows: progress, publishing, the end, the hand-over, going on; totals. Does not know: where tokens come from,
who runs next.
"""

from __future__ import annotations

from dataclasses import dataclass

from diptych.domain.errors import Bug
from diptych.domain.events import DecodeStarted, PrefillDone, WorkerEvent
from diptych.domain.ids import TokenId
from diptych.domain.request import FinishReason
from diptych.scheduling.attempts import Attempts
from diptych.scheduling.batcher import Batch
from diptych.scheduling.block_pool import BlockPool
from diptych.scheduling.decoding import by_order
from diptych.scheduling.holding import export, publish_full
from diptych.scheduling.queues import Roster
from diptych.scheduling.sequence import Sequence


@dataclass(slots=True)
class Totals:
    """Since the worker started."""

    steps: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    decode_steps: int = 0


class Landing:
    """Takes in the parts of a step, in this order: `land`, `end_round`, each chunk."""

    def __init__(
        self,
        roster: Roster,
        pool: BlockPool,
        attempts: Attempts,
        outbox: list[WorkerEvent],
        prompt_cache: bool,
    ) -> None:
        self.totals = Totals()
        self._roster = roster
        self._pool = pool
        self._attempts = attempts
        self._outbox = outbox
        self._prompt_cache = prompt_cache

    def land(self, step: int) -> Batch:
        """The step under way is over. Raises `Bug` if it is another one."""
        batch, self._attempts.flight = self._attempts.flight, None
        if batch is None or batch.step != step:
            raise Bug(f"step {step} is committed but not under way")
        totals = self.totals
        totals.steps += 1
        totals.decode_steps += not batch.chunks
        totals.decode_tokens += batch.decodes
        return batch

    def end_round(self, batch: Batch, reasons: dict[Sequence, FinishReason]) -> None:
        """Everyone who decoded has come one token further: publish what that filled (also of those dropped
        meanwhile: the next turn may want it), then part with those for whom it was the last."""
        if not batch.decodes:
            return
        decodes = self._roster.decodes
        over = self._attempts.dropped_decodes()
        decodes.advance_some(batch.decodes)
        for sequence in decodes.filled():
            if self._prompt_cache:
                publish_full(sequence, self._pool)
        for sequence in decodes.ended():
            reasons.setdefault(sequence, FinishReason.LENGTH)
        if not over and not reasons:
            return
        over += [sequence for sequence in reasons if not sequence.dropped]
        for sequence in sorted(over, key=by_order):
            if sequence.dropped:
                self._attempts.settle_drop(sequence)
            else:
                self._attempts.finish(sequence, reasons[sequence])

    def advance(self, sequence: Sequence, count: int) -> bool:
        """The KV of a chunk is written: count it and publish what it filled (also if the sequence was dropped
        meanwhile). Whether a token comes out of it."""
        self.totals.prefill_tokens += count
        sequence.computed += count
        if self._prompt_cache:
            publish_full(sequence, self._pool)
        if sequence.dropped:
            self._attempts.settle_drop(sequence)
            return False
        return not sequence.remaining

    def take_first(self, sequence: Sequence, token_id: TokenId) -> FinishReason | None:
        """Append the first token and see what it means: the end, the hand-over, or going on."""
        reason = sequence.append(token_id)
        if reason is not None:
            self._attempts.finish(sequence, reason)
        elif sequence.export_lease is not None:
            self._hand_over(sequence)
        else:
            self._roster.turn_to_decode(sequence)
            self._outbox.append(DecodeStarted(sequence.request_id, sequence.attempt))
        return reason

    def _hand_over(self, sequence: Sequence) -> None:
        block_ids = tuple(sequence.block_table)
        export(sequence, self._pool)
        self._attempts.end(sequence)
        self._outbox.append(
            PrefillDone(sequence.request_id, sequence.attempt, block_ids, computed_tokens=sequence.computed)
        )
