"""The scheduler of one worker: commands in, steps and events out.

Knows: what every command means here, what a committed step leads to. Does not know: tensors, time, other
workers, how anything is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, assert_never

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
    Bounced,
    DecodeStarted,
    Dropped,
    Finished,
    Leased,
    PrefillDone,
    PrefillStarted,
    Reserved,
    ReserveRefused,
    WorkerEvent,
)
from diptych.domain.ids import BlockId, LeaseId, RequestId, TokenId, WorkerId
from diptych.domain.request import FinishReason, Phase, PromptLogprobs, Sampled, TokenOut
from diptych.domain.step import Slice, StepPlan, StepResult
from diptych.domain.worker import WorkerStats
from diptych.scheduling.batcher import NO_ROOM, Batch, Batcher
from diptych.scheduling.block_pool import BlockPool
from diptych.scheduling.config import SchedulerConfig
from diptych.scheduling.fetching import FETCH_FAILED, Fetch
from diptych.scheduling.holding import export, give_back, publish_full, seat_fetch
from diptych.scheduling.leaping import Leaper, Steady
from diptych.scheduling.queues import Roster
from diptych.scheduling.sequence import Sequence


class StepOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a committed step leads to, in the order of a `StepReport`: tokens first, then events."""

    events: tuple[WorkerEvent, ...] = ()
    tokens: tuple[TokenOut, ...] = ()
    prompt_logprobs: tuple[PromptLogprobs, ...] = ()


class _Flight(NamedTuple):
    """The step under way. Holds the sequences themselves: by the time it lands, their names may belong to
    newer attempts."""

    plan: StepPlan
    sequences: dict[RequestId, Sequence]


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
        self._promises: dict[RequestId, Sequence] = {}  # expected here; blocks are reserved for them
        self._flight: _Flight | None = None
        self._ended: list[RequestId] = []  # the engine knows them and need not any more
        self._outbox: list[WorkerEvent] = []
        self._totals = _Totals()
        self._planned_steps = 0

    # ------------------------------------------------------------ commands

    def handle(self, command: WorkerCommand) -> list[WorkerEvent]:
        """Obey one command and return all pending events, its answer among them. Raises `Bug` for an order
        that can't have been given: a start of an attempt that is here already or is older than one here."""
        match command:
            case Reserve():
                self._reserve(command)
            case LeaseBlocks():
                block_ids = self._pool.lend(command.lease_id, command.hashes)
                self._outbox.append(Leased(lease_id=command.lease_id, block_ids=block_ids))
            case ReleaseLease():
                self._pool.release_lease(command.lease_id)
            case StartPrefill():
                sequence = Sequence.to_prefill(command, self._config.block_tokens)
                sequence.reserved_blocks = self._claim(sequence)
                self._roster.prefills.push(self._meet(sequence))
            case StartDecode():
                self._import(self._meet(self._expected(command)))
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
        events: list[WorkerEvent] = [*self._pool.drain_news(), *self._outbox]
        self._outbox = []
        return events

    def _reserve(self, command: Reserve) -> None:
        self._forget_promise(command.request_id, up_to_attempt=command.attempt)
        if command.request_id in self._promises:
            raise Bug(f"{command.request_id}: attempt {command.attempt} reserves after a newer one")
        if self._pool.reserve(command.blocks):
            promise = Sequence.to_expect(command.work, self._config.block_tokens)
            promise.reserved_blocks = command.blocks
            self._promises[command.request_id] = promise
            self._outbox.append(Reserved(request_id=command.request_id, attempt=command.attempt))
        else:
            self._outbox.append(
                ReserveRefused(
                    request_id=command.request_id,
                    attempt=command.attempt,
                    available_blocks=self._pool.available_blocks,
                )
            )

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

    def _expected(self, command: StartDecode) -> Sequence:
        """The sequence that was reserved for, with what is new."""
        sequence = self._promises.get(command.request_id)
        if sequence is None or sequence.attempt != command.attempt:
            raise Bug(f"{command.request_id}: attempt {command.attempt} decodes without a reservation")
        sequence.take_over(command)
        del self._promises[command.request_id]
        return sequence

    def _claim(self, sequence: Sequence) -> int:
        """The blocks promised to this attempt; promises to older ones are void."""
        promise = self._promises.get(sequence.request_id)
        if promise is not None and promise.attempt == sequence.attempt:
            del self._promises[sequence.request_id]
            return promise.reserved_blocks
        self._forget_promise(sequence.request_id, up_to_attempt=sequence.attempt)
        return 0

    def _forget_promise(self, request_id: RequestId, up_to_attempt: int) -> None:
        promise = self._promises.get(request_id)
        if promise is not None and promise.attempt <= up_to_attempt:
            del self._promises[request_id]
            self._pool.cancel(promise.reserved_blocks)

    def _drop(self, request_id: RequestId, attempt: int) -> None:
        promise = self._promises.get(request_id)
        if promise is not None and promise.attempt == attempt:
            self._forget_promise(request_id, attempt)
        fetching = self._roster.fetching.sequences.get((request_id, attempt))
        for sequence in (self._latest.get(request_id), self._in_flight(request_id), fetching):
            if sequence is not None and sequence.attempt == attempt:
                self._end_soon(sequence, answers=1)
                return
        self._outbox.append(Dropped(request_id=request_id, attempt=attempt))

    def _end_soon(self, sequence: Sequence, answers: int) -> None:
        """End now, or when nobody writes into its blocks any more: at the commit of the step that computes
        with it, at the end of its transfer. Then give so many answers."""
        sequence.dropped = True
        sequence.drop_answers += answers
        computes = self._in_flight(sequence.request_id) is sequence
        if not computes and not self._roster.fetching.under_way(sequence):
            self._settle_drop(sequence)

    def _in_flight(self, request_id: RequestId) -> Sequence | None:
        return self._flight.sequences.get(request_id) if self._flight else None

    def _settle_drop(self, sequence: Sequence) -> None:
        self._end(sequence)
        answer = Dropped(request_id=sequence.request_id, attempt=sequence.attempt)
        self._outbox.extend([answer] * sequence.drop_answers)

    def _end(self, sequence: Sequence) -> None:
        """Part with a sequence that waits or runs, and with all it holds."""
        ran = sequence in self._roster.running
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
        batch = self._batcher.compose()
        self._announce(batch)
        if not batch.rows:
            return None
        plan = self._to_plan(batch)
        self._flight = _Flight(plan, {sequence.request_id: sequence for sequence, _ in batch.rows})
        return plan

    def _announce(self, batch: Batch) -> None:
        for bounce in batch.bounced:
            sequence = bounce.sequence
            self._forget(sequence, bounce.ran)
            self._outbox.append(
                Bounced(request_id=sequence.request_id, attempt=sequence.attempt, reason=bounce.reason)
            )
        self._outbox += [self._admission(sequence) for sequence in batch.admitted]

    def _admission(self, sequence: Sequence) -> WorkerEvent:
        name, attempt = sequence.request_id, sequence.attempt
        if sequence.phase is Phase.PREFILL:
            return PrefillStarted(request_id=name, attempt=attempt, cached_tokens=sequence.computed)
        copied_bytes = sequence.copied_blocks * self._config.block_bytes
        return DecodeStarted(request_id=name, attempt=attempt, copied_bytes=copied_bytes)

    def _to_plan(self, batch: Batch) -> StepPlan:
        ended, self._ended = self._ended, []
        step, self._planned_steps = self._planned_steps, self._planned_steps + 1
        return StepPlan(
            step=step,
            slices=tuple(sequence.piece(count) for sequence, count in batch.rows),
            new=tuple(sequence.introduction() for sequence in batch.admitted),
            ended=tuple(ended),
            copies=tuple(batch.copies),
        )

    # ------------------------------------------------------------ commit

    def commit(self, plan: StepPlan, result: StepResult) -> StepOutcome:
        """Take in what the engine made of ``plan``. Raises `Bug` if it is not the step under way or a
        sampled token is missing."""
        flight = self._land(plan)
        tokens: list[TokenOut] = []
        logprobs: list[PromptLogprobs] = []
        for piece in plan.slices:
            sequence = flight.sequences[piece.request_id]
            self._advance(sequence, piece)
            if sequence.dropped:
                self._settle_drop(sequence)
                continue
            logprobs += _prompt_logprobs(sequence, piece, result)
            if piece.sample:
                tokens.append(self._take(sequence, result))
        return StepOutcome(
            events=tuple(self.drain_events()), tokens=tuple(tokens), prompt_logprobs=tuple(logprobs)
        )

    def _land(self, plan: StepPlan) -> _Flight:
        flight, self._flight = self._flight, None
        if flight is None or flight.plan.step != plan.step:
            raise Bug(f"step {plan.step} is committed but not under way")
        self._totals.steps += 1
        phases = {sequence.phase for sequence in flight.sequences.values()}
        self._totals.decode_steps += phases == {Phase.DECODE}
        return flight

    def _advance(self, sequence: Sequence, piece: Slice) -> None:
        """The KV of the slice is written: count it and publish what it filled (also if the sequence was
        dropped meanwhile: the next turn may want it)."""
        if sequence.phase is Phase.PREFILL:
            self._totals.prefill_tokens += len(piece.token_ids)
        else:
            self._totals.decode_tokens += len(piece.token_ids)
        sequence.computed += len(piece.token_ids)
        if self._config.prompt_cache:
            publish_full(sequence, self._pool)

    def _take(self, sequence: Sequence, result: StepResult) -> TokenOut:
        """Append the sampled token and see what it means: the end, the hand-over, or going on."""
        sampled = result.sampled.get(sequence.request_id)
        if sampled is None:
            raise Bug(f"no token was sampled for {sequence.request_id}")
        index, was_prefill = sequence.output_tokens, sequence.phase is Phase.PREFILL
        reason = sequence.append(sampled.token_id)
        name, attempt = sequence.request_id, sequence.attempt
        if reason is not None:
            self._end(sequence)
            self._outbox.append(Finished(request_id=name, attempt=attempt, finish_reason=reason))
        elif sequence.export_lease is not None:
            self._hand_over(sequence)
        elif was_prefill:
            self._outbox.append(DecodeStarted(request_id=name, attempt=attempt))
        return _token_out(sequence, index, sampled, reason)

    def _hand_over(self, sequence: Sequence) -> None:
        block_ids = tuple(sequence.block_table)
        export(sequence, self._pool)
        self._end(sequence)
        self._outbox.append(
            PrefillDone(
                request_id=sequence.request_id,
                attempt=sequence.attempt,
                block_ids=block_ids,
                computed_tokens=sequence.computed,
            )
        )

    # ------------------------------------------------------------ leap

    def steady(self) -> Steady | None:
        """What lies ahead if the next step, and perhaps many after it, only decodes; None if it does anything
        else. Raises `Bug` while a step is under way."""
        if self._flight is not None:
            raise Bug("a leap is asked for while a step is under way")
        return self._leaper.steady()

    def leap(self, steps: int, token_id: TokenId) -> None:
        """Leave what ``steps`` rounds of plan and commit would leave if each sampled ``token_id`` for every
        sequence; nobody is given the tokens. Raises `Bug` for more steps than are `steady`."""
        steady = self.steady()
        if steps < 0 or steps > (steady.steps if steady else 0):
            raise Bug(f"a leap over {steps} steps, steady is {steady}")
        if steady is None or not steps:
            return
        self._leaper.leap(steps, token_id)
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
            running=len(roster.running),
            queued_tokens=sum(item.remaining for item in roster if item.phase is Phase.PREFILL),
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
        promised = sum(promise.reserved_blocks for promise in self._promises.values())
        promised += sum(sequence.reserved_blocks for sequence in self._roster)
        self._pool.check([sequence.own_blocks for sequence in self._roster], promised)
        if len(self._roster.running) > self._config.max_running:
            raise Bug("too many sequences run")
        for sequence in self._roster.running:
            self._check_blocks(sequence)
        for sequence in self._roster.fetching.sequences.values():
            self._check_blocks(sequence)
        for sequence in self._latest.values():
            if sequence not in list(self._roster):
                raise Bug(f"{sequence.request_id} is known but neither waits nor runs")

    def _check_blocks(self, sequence: Sequence) -> None:
        """All computed tokens have a block, and the one written next is nobody else's."""
        if len(sequence.block_table) * sequence.block_tokens < sequence.computed:
            raise Bug(f"{sequence.request_id} has computed more than its blocks hold")
        to_write = sequence.block_table[sequence.full_blocks :]
        shared = [block for block in to_write if not self._pool.is_exclusive(block)]
        if shared:
            raise Bug(f"{sequence.request_id} would write into blocks {shared} that others see")


def _prompt_logprobs(sequence: Sequence, piece: Slice, result: StepResult) -> list[PromptLogprobs]:
    entries = result.prompt_logprobs.get(piece.request_id, ())
    if not entries:
        return []
    return [
        PromptLogprobs(
            request_id=piece.request_id, attempt=sequence.attempt, start=piece.start + 1, entries=entries
        )
    ]


def _token_out(sequence: Sequence, index: int, sampled: Sampled, reason: FinishReason | None) -> TokenOut:
    return TokenOut(
        request_id=sequence.request_id,
        attempt=sequence.attempt,
        index=index,
        token_id=sampled.token_id,
        logprob=sampled.logprob,
        finish_reason=reason,
        stop_token_id=sampled.token_id if reason is FinishReason.STOP else None,
    )
