"""The scheduler of one worker: commands in, steps and events out.

Knows: what every command means here, what a committed step leads to. Does not know: tensors, time, other
workers, how anything is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

import msgspec

from diptych.domain.commands import (
    DropWork,
    FinishWork,
    LeaseBlocks,
    ReleaseLease,
    Reserve,
    StartDecode,
    StartPrefill,
    WorkerCommand,
)
from diptych.domain.errors import Bug
from diptych.domain.events import (
    FETCH_FAILED,
    Bounced,
    DecodeStarted,
    Dropped,
    Finished,
    Leased,
    PrefillDone,
    PrefillStarted,
    WorkerEvent,
)
from diptych.domain.ids import BlockId, LeaseId, RequestId, TokenId, WorkerId
from diptych.domain.request import FinishReason, Phase, PromptLogprobs, Sampled, TokenOut
from diptych.domain.step import Slice, StepPlan, StepResult
from diptych.domain.worker import WorkerStats
from diptych.scheduling.batcher import NO_ROOM, Batch, Batcher
from diptych.scheduling.block_pool import BlockPool
from diptych.scheduling.config import SchedulerConfig
from diptych.scheduling.decoding import by_order
from diptych.scheduling.describing import (
    StepShape,
    chunk_shape,
    chunk_slice,
    decode_slice,
    introduction,
    prompt_logprobs,
    token_out,
)
from diptych.scheduling.fetching import Fetch
from diptych.scheduling.holding import export, give_back, publish_full, seat_fetch
from diptych.scheduling.leaping import Leaper, Steady
from diptych.scheduling.promises import Promises
from diptych.scheduling.queues import Roster
from diptych.scheduling.sequence import Sequence


class StepOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a committed step leads to, in the order of a `StepReport`: tokens first, then events."""

    events: tuple[WorkerEvent, ...] = ()
    tokens: tuple[TokenOut, ...] = ()
    prompt_logprobs: tuple[PromptLogprobs, ...] = ()


@dataclass(slots=True)
class _Totals:
    steps: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    decode_steps: int = 0


class Scheduler:
    """One worker's queue, batch and arena.

    The loop is ``plan`` → (engine runs it) → ``commit``. `handle` may be called at any time, also between
    the two; a sequence that runs in the step under way ends only when that step is committed, all others
    end at once. The object is not thread-safe: callers hold a lock around each call.

    **Events** leave through one outbox, in the order in which things happened. `handle`, `commit` and
    `drain_events` each empty it; `plan` fills it (admissions, bounces, evictions), so call `drain_events`
    after `plan`, whatever `plan` returned. Put what a call returned into the send queue before the lock is
    released, or two threads could swap the order.

    ``adopted``: leases of an earlier incarnation whose borrowers are still there.
    """

    def __init__(
        self, config: SchedulerConfig, adopted: Mapping[LeaseId, tuple[BlockId, ...]] | None = None
    ) -> None:
        self._config = config
        self._pool = BlockPool(config.arena, adopted)
        self._roster = Roster()
        self._batcher = Batcher(config, self._roster, self._pool)
        self._leaper = Leaper(config, self._roster, self._pool, self._batcher)
        self._latest: dict[RequestId, Sequence] = {}
        self._ending: dict[tuple[RequestId, int], Sequence] = {}  # dropped, but somebody uses their blocks
        self._promises = Promises(self._pool, config.block_tokens)
        self._flight: Batch | None = None
        self._ended: list[RequestId] = []  # the engine knows them and need not any more
        self._outbox: list[WorkerEvent] = []
        self._totals = _Totals()
        self._planned_steps = 0
        self._ahead: Steady | None = None  # the last answer of `steady`, while it holds

    # ------------------------------------------------------------ commands

    def handle(self, command: WorkerCommand) -> list[WorkerEvent]:
        """Obey one command and return all pending events, its answer among them. Raises `Bug` for an order
        that can't have been given: a start of an attempt that is here already or is older than one here."""
        self._ahead = None
        match command:
            case Reserve():
                self._outbox.append(self._promises.reserve(command))
            case LeaseBlocks():
                block_ids = self._pool.lend(command.lease_id, command.hashes)
                self._outbox.append(Leased(command.lease_id, block_ids))
            case ReleaseLease():
                self._pool.release_lease(command.lease_id)
            case StartPrefill():
                sequence = Sequence.to_prefill(command, self._config.block_tokens)
                sequence.reserved_blocks = self._promises.claim(sequence)
                self._roster.prefills.push(self._meet(sequence))
            case StartDecode():
                self._import(self._meet(self._promises.expected(command)))
            case FinishWork() | DropWork():
                self._drop(command.request_id, command.attempt)
            case _:
                assert_never(command)
        return self.drain_events()

    def _import(self, sequence: Sequence) -> None:
        if sequence.source is None:
            self._roster.imports.push(sequence)
        elif seat_fetch(sequence, self._pool):
            self._fetch(sequence, sequence.source)
        else:
            self._bounce(sequence, NO_ROOM)

    def drain_events(self) -> list[WorkerEvent]:
        """All pending events. Cache news come first: whoever reads that a request ended knows its blocks."""
        events, self._outbox = self._outbox, []
        return [*self._pool.drain_news(), *events] if self._pool.news else events

    def _meet(self, sequence: Sequence) -> Sequence:
        """Take note of a new attempt. An older attempt that is still here ends silently (through `_ended`, so
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

    def _drop(self, request_id: RequestId, attempt: int) -> None:
        self._promises.drop(request_id, attempt)
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
            self._settle_drop(sequence)

    def _computes(self, sequence: Sequence) -> bool:
        """Whether it is in the step under way."""
        if self._flight is None or not sequence.running:
            return False
        batch = self._flight
        if sequence.phase is Phase.DECODE:
            return sequence in self._roster.decodes.sequences[: batch.decodes]
        return any(item is sequence for item, _ in batch.chunks)

    def _settle_drop(self, sequence: Sequence) -> None:
        self._ending.pop((sequence.request_id, sequence.attempt), None)
        self._end(sequence)
        answer = Dropped(sequence.request_id, sequence.attempt)
        self._outbox.extend([answer] * sequence.drop_answers)

    def _end(self, sequence: Sequence) -> None:
        """Part with a sequence that waits or runs, and with all it holds."""
        ran = sequence.running
        self._roster.remove(sequence)
        give_back(sequence, self._pool)
        self._forget(sequence, ran)

    def _forget(self, sequence: Sequence, ran: bool) -> None:
        """The name is free again; an engine that has heard of it is told with the next step."""
        if self._latest.get(sequence.request_id) is sequence:
            del self._latest[sequence.request_id]
        if ran:
            self._ended.append(sequence.request_id)

    # ------------------------------------------------------------ fetches

    def drain_fetches(self) -> list[Fetch]:
        """Transfers that the caller has to perform now, in the order of their commands. Each ends with
        `fetched` or `fetch_failed`, also if its sequence is dropped meanwhile."""
        return self._roster.fetching.drain_orders()

    def fetched(self, request_id: RequestId, attempt: int) -> list[WorkerEvent]:
        """The KV is there: the sequence may run. Returns all pending events. Raises `Bug` if no such transfer
        is under way."""
        self._ahead = None
        sequence = self._roster.fetching.pop(request_id, attempt)
        self._roster.imports.push(sequence)
        if self._config.prompt_cache:
            publish_full(sequence, self._pool)
        if sequence.dropped:
            self._settle_drop(sequence)
        return self.drain_events()

    def fetch_failed(self, request_id: RequestId, attempt: int) -> list[WorkerEvent]:
        """The KV does not come: the sequence is given back. Returns all pending events. Raises `Bug` if no
        such transfer is under way."""
        self._ahead = None
        sequence = self._roster.fetching.pop(request_id, attempt)
        if sequence.dropped:
            self._roster.imports.push(sequence)
            self._settle_drop(sequence)
        else:
            self._bounce(sequence, FETCH_FAILED)
        return self.drain_events()

    def _fetch(self, sequence: Sequence, source: WorkerId) -> None:
        """Wait for what is not cached here; that may be nothing."""
        held = sequence.settled_blocks
        if sequence.copied_blocks == 0:
            self._roster.imports.push(sequence)
            return
        fetch = Fetch(
            sequence.request_id,
            sequence.attempt,
            source,
            source_block_ids=sequence.imported_blocks[held:],
            target_block_ids=tuple(sequence.block_table[held:]),
            tokens=sequence.computed - held * sequence.block_tokens,
        )
        self._roster.fetching.add(sequence, fetch)

    def _bounce(self, sequence: Sequence, reason: str) -> None:
        """Give back a sequence that is in no queue any more and that the engine has not heard of."""
        give_back(sequence, self._pool)
        self._forget(sequence, ran=False)
        self._outbox.append(Bounced(request_id=sequence.request_id, attempt=sequence.attempt, reason=reason))

    # ------------------------------------------------------------ plan

    def plan(self) -> StepPlan | None:
        """The next step, or None: nothing can run until a command arrives. Either way events may be pending
        (`drain_events`).

        A sequence is admitted here: `PrefillStarted`, and for an import `DecodeStarted` with the bytes that
        this very step copies before its forward pass. Raises `Bug` while a step is under way.
        """
        if self._flight is not None:
            raise Bug("a second step is planned while one is under way")
        batch = self._compose()
        return None if batch is None else self._to_plan(batch)

    def begin(self) -> StepShape | None:
        """`plan` for who has no engine: the same step, told by its sizes. It ends with `finish`."""
        if self._flight is not None:
            raise Bug("a second step begins while one is under way")
        batch = self._compose()
        return None if batch is None else self._to_shape(batch)

    def _compose(self) -> Batch | None:
        self._ahead = None
        batch = self._batcher.compose()
        if batch.bounced or batch.admitted:
            self._announce(batch)
        if not batch.tokens:
            return None
        batch.step = self._planned_steps
        self._planned_steps += 1
        self._flight = batch
        return batch

    def _announce(self, batch: Batch) -> None:
        for sequence, reason, ran in batch.bounced:
            self._forget(sequence, ran)
            self._outbox.append(Bounced(sequence.request_id, sequence.attempt, reason))
        for sequence in batch.admitted:
            self._outbox.append(self._admission(sequence))

    def _admission(self, sequence: Sequence) -> WorkerEvent:
        name, attempt = sequence.request_id, sequence.attempt
        if sequence.phase is Phase.PREFILL:
            return PrefillStarted(name, attempt, cached_tokens=sequence.computed)
        return DecodeStarted(name, attempt, copied_bytes=sequence.copied_blocks * self._config.block_bytes)

    def _to_plan(self, batch: Batch) -> StepPlan:
        ended, self._ended = self._ended, []
        decodes = self._roster.decodes
        slices: list[Slice] = []
        for sequence in decodes.sequences[: batch.decodes]:
            decodes.catch_up(sequence)
            slices.append(decode_slice(sequence))
        slices += [chunk_slice(sequence, count) for sequence, count in batch.chunks]
        return StepPlan(
            step=batch.step,
            slices=tuple(slices),
            new=tuple([introduction(sequence) for sequence in batch.admitted]),
            ended=tuple(ended),
            copies=tuple(batch.copies),
        )

    def _to_shape(self, batch: Batch) -> StepShape:
        self._ended = []  # there is nobody to be told
        decodes = self._roster.decodes
        context_tokens, left_out, imports = decodes.context_tokens, (), ()
        if batch.decodes < len(decodes.sequences):
            rest = decodes.sequences[batch.decodes :]
            context_tokens -= sum(map(decodes.computed, rest))
            left_out = tuple([sequence.request_id for sequence in rest])
        if batch.admitted and batch.decodes:
            imports = tuple([item.request_id for item in batch.admitted if item.phase is Phase.DECODE])
        chunks = [chunk_shape(sequence, count) for sequence, count in batch.chunks]
        return StepShape(
            batch.step, chunks, batch.decodes, context_tokens, imports, left_out, len(batch.copies)
        )

    # ------------------------------------------------------------ commit

    def commit(self, plan: StepPlan, result: StepResult) -> StepOutcome:
        """Take in what the engine made of ``plan``. Raises `Bug` if it is not the step under way or a
        sampled token is missing."""
        batch = self._land(plan.step)
        tokens: list[TokenOut] = []
        logprobs: list[PromptLogprobs] = []
        decodes = self._roster.decodes
        reasons: dict[Sequence, FinishReason] = {}
        for sequence in decodes.sequences[: batch.decodes]:
            if sequence.dropped:
                continue
            decodes.catch_up(sequence)
            sampled = _sampled(sequence, result)
            reason = sequence.append(sampled.token_id)
            if reason is not None:
                reasons[sequence] = reason
            tokens.append(token_out(sequence, sampled, reason))
        self._end_round(batch, reasons)
        for sequence, count in batch.chunks:
            start = sequence.computed
            samples = self._advance(sequence, count)
            if not sequence.dropped:
                logprobs += prompt_logprobs(sequence, start, result)
            if samples:
                sampled = _sampled(sequence, result)
                reason = self._take_first(sequence, sampled.token_id)
                tokens.append(token_out(sequence, sampled, reason))
        return StepOutcome(
            events=tuple(self.drain_events()), tokens=tuple(tokens), prompt_logprobs=tuple(logprobs)
        )

    def finish(self, token_id: TokenId, others: Mapping[RequestId, TokenId]) -> list[WorkerEvent]:
        """`commit` for a step that `begin` began: everyone but the ``others`` samples ``token_id``, and
        nobody is given the tokens. Returns all pending events. Raises `Bug` if no step is under way, or if
        ``token_id`` would end a sequence (it may end one whose first token it is)."""
        if self._flight is None:
            raise Bug("a step is finished but none is under way")
        batch = self._land(self._flight.step)
        reasons: dict[Sequence, FinishReason] = {}
        if batch.decodes:
            self._roster.decodes.fill_with(token_id)
            for request_id, other in others.items():
                self._name_token(request_id, other, reasons)
            self._end_round(batch, reasons)
        for sequence, count in batch.chunks:
            if self._advance(sequence, count):
                self._take_first(sequence, others.get(sequence.request_id, token_id))
        return self.drain_events()

    def _name_token(
        self, request_id: RequestId, token_id: TokenId, reasons: dict[Sequence, FinishReason]
    ) -> None:
        """A decode that samples something of its own."""
        sequence = self._latest.get(request_id)
        if sequence is None or not sequence.running or sequence.phase is Phase.PREFILL or sequence.dropped:
            return
        self._roster.decodes.catch_up(sequence)
        reason = sequence.append(token_id)
        if reason is not None:
            reasons[sequence] = reason

    def _land(self, step: int) -> Batch:
        batch, self._flight = self._flight, None
        if batch is None or batch.step != step:
            raise Bug(f"step {step} is committed but not under way")
        totals = self._totals
        totals.steps += 1
        totals.decode_steps += not batch.chunks
        totals.decode_tokens += batch.decodes
        return batch

    def _end_round(self, batch: Batch, reasons: dict[Sequence, FinishReason]) -> None:
        """Everyone who decoded has come one token further: publish what that filled (also of those dropped
        meanwhile: the next turn may want it), then part with those for whom it was the last."""
        if not batch.decodes:
            return
        decodes = self._roster.decodes
        over: list[Sequence] = []
        if self._ending:
            over = [item for item in self._ending.values() if item.running and item.phase is Phase.DECODE]
        decodes.advance_some(batch.decodes)
        for sequence in decodes.filled():
            if self._config.prompt_cache:
                publish_full(sequence, self._pool)
        for sequence in decodes.ended():
            reasons.setdefault(sequence, FinishReason.LENGTH)
        if not over and not reasons:
            return
        over += [sequence for sequence in reasons if not sequence.dropped]
        for sequence in sorted(over, key=by_order):
            self._part(sequence, reasons)

    def _part(self, sequence: Sequence, reasons: dict[Sequence, FinishReason]) -> None:
        if sequence.dropped:
            self._settle_drop(sequence)
            return
        self._end(sequence)
        self._outbox.append(Finished(sequence.request_id, sequence.attempt, reasons[sequence]))

    def _advance(self, sequence: Sequence, count: int) -> bool:
        """The KV of a chunk is written: count it and publish what it filled (also if the sequence was dropped
        meanwhile). Whether a token comes out of it."""
        self._totals.prefill_tokens += count
        sequence.computed += count
        if self._config.prompt_cache:
            publish_full(sequence, self._pool)
        if sequence.dropped:
            self._settle_drop(sequence)
            return False
        return not sequence.remaining

    def _take_first(self, sequence: Sequence, token_id: TokenId) -> FinishReason | None:
        """Append the first token and see what it means: the end, the hand-over, or going on."""
        reason = sequence.append(token_id)
        name, attempt = sequence.request_id, sequence.attempt
        if reason is not None:
            self._end(sequence)
            self._outbox.append(Finished(name, attempt, reason))
        elif sequence.export_lease is not None:
            self._hand_over(sequence)
        else:
            self._roster.turn_to_decode(sequence)
            self._outbox.append(DecodeStarted(name, attempt))
        return reason

    def _hand_over(self, sequence: Sequence) -> None:
        block_ids = tuple(sequence.block_table)
        export(sequence, self._pool)
        self._end(sequence)
        self._outbox.append(
            PrefillDone(sequence.request_id, sequence.attempt, block_ids, computed_tokens=sequence.computed)
        )

    # ------------------------------------------------------------ leap

    def steady(self, at_most: int | None = None) -> Steady | None:
        """What lies ahead if the next step, and perhaps many after it, only decodes; None if it does
        anything else. Who will not want more steps than ``at_most`` says so: looking less far costs less.
        Raises `Bug` while a step is under way."""
        if self._flight is not None:
            raise Bug("a leap is asked for while a step is under way")
        self._ahead = self._leaper.steady(at_most)
        return self._ahead

    def leap(self, steps: int, token_id: TokenId) -> None:
        """Leave what ``steps`` rounds of plan and commit would leave if each sampled ``token_id`` for every
        sequence; nobody is given the tokens. Raises `Bug` for more steps than are `steady`."""
        steady = self._ahead
        if steady is None or steps > steady.steps or self._flight is not None:
            steady = self.steady(max(steps, 1))
        if steps < 0 or steps > (steady.steps if steady else 0):
            raise Bug(f"a leap over {steps} steps, steady is {steady}")
        if steady is None or not steps:
            return
        self._leaper.leap(steps, token_id)
        self._ahead = None
        self._ended = []  # the first of these steps would have told the engine
        self._planned_steps += steps
        self._totals.steps += steps
        self._totals.decode_steps += steps
        self._totals.decode_tokens += steps * steady.decodes

    # ------------------------------------------------------------ looking in

    def has_work(self) -> bool:
        """Whether any sequence waits, runs or is in the step under way."""
        return bool(self._flight or self._roster.waiting or self._roster.running)

    @property
    def held_blocks(self) -> int:
        """Blocks that sequences and leases hold now."""
        return self._pool.held_blocks

    def stats(self) -> WorkerStats:
        """Load now and totals of tokens and steps; the seconds are left to who has a clock."""
        pool, roster, totals = self._pool, self._roster, self._totals
        return WorkerStats(
            steps=totals.steps,
            busy=self._flight is not None or self._batcher.can_run(),
            waiting=roster.waiting,
            running=roster.running,
            queued_tokens=roster.queued_tokens,
            free_blocks=pool.free_blocks,
            cached_blocks=pool.cached_blocks,
            held_blocks=pool.held_blocks,
            reserved_blocks=pool.reserved_blocks,
            leases=len(pool.leases),
            prefill_tokens_total=totals.prefill_tokens,
            decode_tokens_total=totals.decode_tokens,
            decode_steps_total=totals.decode_steps,
        )

    def check(self) -> None:
        """Raise `Bug` unless every block, reference and promise is accounted for."""
        promised = sum(sequence.reserved_blocks for sequence in [*self._promises, *self._roster])
        self._pool.check([sequence.own_blocks for sequence in self._roster], promised)
        self._roster.decodes.check()
        if self._roster.running > self._config.max_running:
            raise Bug("too many sequences run")
        for sequence in [*self._roster.prefilling, *self._roster.fetching.sequences.values()]:
            self._check_blocks(sequence, sequence.computed)
        for sequence in self._roster.decodes.sequences:
            self._check_blocks(sequence, self._roster.decodes.computed(sequence))
        for sequence in [*self._latest.values(), *self._ending.values()]:
            if sequence not in list(self._roster):
                raise Bug(f"{sequence.request_id} is known but neither waits nor runs")
        waiting = sum(item.remaining for item in self._roster.prefills.sequences)
        if waiting != self._roster.prefills.tokens:
            raise Bug(f"{self._roster.prefills.tokens} waiting tokens are counted, {waiting} wait")

    def _check_blocks(self, sequence: Sequence, computed: int) -> None:
        """All computed tokens have a block, and the one written next is nobody else's."""
        if sequence.capacity < computed:
            raise Bug(f"{sequence.request_id} has computed more than its blocks hold")
        to_write = sequence.block_table[computed // sequence.block_tokens :]
        shared = [block for block in to_write if not self._pool.is_exclusive(block)]
        if shared:
            raise Bug(f"{sequence.request_id} would write into blocks {shared} that others see")


def _sampled(sequence: Sequence, result: StepResult) -> Sampled:
    sampled = result.sampled.get(sequence.request_id)
    if sampled is None:
        raise Bug(f"no token was sampled for {sequence.request_id}")
    return sampled
