"""From the start of prefill to the end of the output.

Knows: what each answer of a worker means for an attempt that goes as planned. Does not know: losses,
deadlines.

    PREFILLING ──PrefillDone: StartDecode──► HANDING_OFF ──DecodeStarted──► DECODING ──Finished──► end
                                             (streamed KV: leases go back here)
    PREFILLING ──DecodeStarted (same worker)──► DECODING          any ──Bounced──► waiting again
"""

from __future__ import annotations

from typing import Final

from diptych.domain.commands import StartDecode
from diptych.domain.errors import Bug, HandoffFailed
from diptych.domain.events import (
    FETCH_FAILED,
    Bounced,
    DecodeStarted,
    Finished,
    PrefillDone,
    PrefillStarted,
    WorkerSaid,
)
from diptych.domain.ids import BlockId
from diptych.domain.lifecycle import State, Trigger
from diptych.domain.report import HandoffKind, HandoffReport, Moment
from diptych.domain.worker import Arena
from diptych.orchestration.attempts import After, Attempt
from diptych.orchestration.endings import Endings
from diptych.orchestration.ledger import Hold
from diptych.orchestration.parts import Parts
from diptych.orchestration.placing import Placing

# Bound once: a lookup in an enumeration costs several times as much as one of a constant, and these are made
# for every request.
_PREFILL_STARTED: Final = Moment.PREFILL_STARTED
_FIRST_TOKEN: Final = Moment.FIRST_TOKEN
_DECODE_STARTED: Final = Moment.DECODE_STARTED
_PREFILLING: Final = State.PREFILLING


class Handoff:
    """Carries running attempts forward."""

    def __init__(self, parts: Parts, endings: Endings, placing: Placing) -> None:
        self._limits = parts.limits
        self._attempts = parts.attempts
        self._leases = parts.leases
        self._timers = parts.timers
        self._outbox = parts.outbox
        self._cost = parts.cost
        self._endings = endings
        self._placing = placing

    def prefill_started(self, attempt: Attempt, event: PrefillStarted, said_s: float) -> None:
        """The first chunk is in a step: the prompt will be done, however long it takes."""
        attempt.prefill_began_s = said_s
        self._timers.cancel(attempt.timer)
        if attempt.after is not None:
            return
        if attempt.number == 1:
            attempt.job.cached_tokens = event.cached_tokens
        attempt.job.moments.mark(_PREFILL_STARTED, said_s)

    def prefill_done(self, attempt: Attempt, said: WorkerSaid, event: PrefillDone, now_s: float) -> None:
        """The KV of the prompt stands, under leases; pass it on."""
        self._learn(attempt, said)
        own = _within(attempt.pair.prefill.info.arena, event.block_ids)
        if attempt.export_lease in self._leases:
            self._leases.export(attempt.export_lease, own)
        self._attempts.leave(attempt, said.worker_id, now_s)
        if attempt.after is not None:
            return
        attempt.job.move(Trigger.PREFILL_DONE)
        attempt.job.moments.mark(_FIRST_TOKEN, said.said_s)
        attempt.prefilled_s = said.said_s
        self._start_decode(attempt, event, now_s)

    def decode_started(self, attempt: Attempt, said: WorkerSaid, event: DecodeStarted) -> None:
        """Its worker can decode it from now on."""
        if attempt.after is not None:
            return
        job = attempt.job
        if job.state is _PREFILLING:
            job.moments.mark(_FIRST_TOKEN, said.said_s)
            self._decodes_alone(attempt)
        else:
            job.handoff = _handed_over(attempt, said.said_s, event.copied_bytes)
            self._cost.observe_handoff(
                target=said.worker_id,
                tokens=attempt.computed_tokens,
                prefill_s=attempt.prefill_s if attempt.pair.streamed else None,
                handoff_s=job.handoff.handoff_s,
            )
            if attempt.pair.streamed:
                self._attempts.give_leases_back(attempt)
        job.move(Trigger.DECODE_STARTED)
        job.moments.mark(_DECODE_STARTED, said.said_s)
        self._timers.cancel(attempt.timer)

    def finished(self, attempt: Attempt, said: WorkerSaid, event: Finished, now_s: float) -> None:
        """Its last token is out."""
        self._attempts.leave(attempt, said.worker_id, now_s)
        if attempt.after is not None:
            return
        attempt.job.moments.mark(_FIRST_TOKEN, said.said_s)
        self._endings.finish(attempt.job, event.finish_reason, said.said_s)

    def bounced(self, attempt: Attempt, said: WorkerSaid, event: Bounced, now_s: float) -> None:
        """Given back for want of blocks, or because its KV did not come (a failure): wait for a place with
        the tokens so far."""
        self._learn(attempt, said)
        failed = event.reason == FETCH_FAILED
        if failed and attempt.after is None:
            attempt.job.failures.append(HandoffFailed.code)
        self._attempts.leave(attempt, said.worker_id, now_s)
        if attempt.after is None:
            self._endings.try_again(attempt, now_s)
        if said.worker_id == attempt.decode.worker_id and not failed:
            self._placing.cool(attempt.decode, 0, now_s)

    def dropped(self, attempt: Attempt, said: WorkerSaid, now_s: float) -> None:
        """It has stopped as it was told to."""
        if said.streamed is not None:
            attempt.job.learn_output(said.streamed.token_ids)
        if attempt.after is not None:
            self._attempts.leave(attempt, said.worker_id, now_s)

    def _learn(self, attempt: Attempt, said: WorkerSaid) -> None:
        if said.streamed is None and attempt.after is After.NOTHING:
            return  # the request has ended: nobody asks for its output any more
        if said.streamed is None:
            raise Bug(f"{said.worker_id} gave {attempt.key} on without its output so far")
        attempt.job.learn_output(said.streamed.token_ids)

    def _start_decode(self, attempt: Attempt, event: PrefillDone, now_s: float) -> None:
        attempt.handed_blocks = len(event.block_ids)
        attempt.computed_tokens = event.computed_tokens
        new_token_ids = attempt.job.output[attempt.work.output_tokens :]
        attempt.job.moments.mark(Moment.HANDED_OFF, now_s)
        self._timers.set(attempt.timer, now_s + self._limits.handoff_timeout_s)
        order = StartDecode(
            request_id=attempt.job.request_id,
            attempt=attempt.number,
            new_token_ids=new_token_ids,
            block_ids=event.block_ids,
            computed_tokens=event.computed_tokens,
            source=attempt.prefill.worker_id if attempt.pair.streamed else None,
        )
        self._outbox.send(attempt.decode, order)

    def _decodes_alone(self, attempt: Attempt) -> None:
        """The prompt is computed: it is no backlog any more."""
        hold = attempt.holds[attempt.prefill.worker_id]
        decoding = Hold(
            blocks=hold.blocks, pins=hold.pins, decodes=hold.decodes, context_tokens=hold.context_tokens
        )
        self._attempts.recharge(attempt, attempt.prefill.worker_id, decoding)


def _within(arena: Arena, block_ids: tuple[BlockId, ...]) -> tuple[BlockId, ...]:
    """Those that lie in this arena, in order; mostly all do."""
    start, end = arena.start, arena.start + arena.blocks
    for block_id in block_ids:
        if not start <= block_id < end:
            return tuple([it for it in block_ids if start <= it < end])
    return block_ids


def _handed_over(attempt: Attempt, said_s: float, copied_bytes: int) -> HandoffReport:
    """What a handoff moved: full blocks that were lent, or over a link what was not cached there already."""
    info, streamed = attempt.pair.prefill.info, attempt.pair.streamed
    full = attempt.computed_tokens // info.block_tokens
    return HandoffReport(
        kind=HandoffKind.STREAM if streamed else HandoffKind.BORROW,
        blocks=attempt.handed_blocks,
        bytes_lent=0 if streamed else full * info.block_bytes,
        bytes_streamed=copied_bytes if streamed else 0,
        bytes_copied=0 if streamed else copied_bytes,
        handoff_s=max(0.0, said_s - attempt.prefilled_s),
    )
