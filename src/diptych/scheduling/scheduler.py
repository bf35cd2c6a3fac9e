"""The scheduler of one worker: commands in, steps and events out.

Knows: what every command means here, what a committed step leads to. Does not know: tensors, time, other
workers, how anything is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, assert_never

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
    DecodeStarted,
    Leased,
    PrefillStarted,
    WorkerEvent,
)
from diptych.domain.ids import BlockId, LeaseId, RequestId, TokenId, WorkerId
from diptych.domain.request import FinishReason, Phase, PromptLogprobs, Sampled, TokenOut
from diptych.domain.step import Slice, StepPlan, StepResult
from diptych.domain.worker import WorkerStats
from diptych.scheduling.attempts import Attempts
from diptych.scheduling.audit import check_roster
from diptych.scheduling.batcher import NO_ROOM, Batch, Batcher
from diptych.scheduling.block_pool import BlockPool
from diptych.scheduling.config import SchedulerConfig
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
from diptych.scheduling.holding import publish_full, seat_fetch
from diptych.scheduling.landing import Landing
from diptych.scheduling.leaping import Leaper, Steady
from diptych.scheduling.promises import Promises
from diptych.scheduling.queues import Roster
from diptych.scheduling.sequence import Sequence

# Bound once: a lookup in an enumeration costs several times as much as one of a constant, and these are made
# for every request.
_PREFILL: Final = Phase.PREFILL
_DECODE: Final = Phase.DECODE


class StepOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a committed step leads to, in the order of a `StepReport`: tokens first, then events."""

    events: tuple[WorkerEvent, ...] = ()
    tokens: tuple[TokenOut, ...] = ()
    prompt_logprobs: tuple[PromptLogprobs, ...] = ()


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
        self._outbox: list[WorkerEvent] = []
        self._attempts = Attempts(self._roster, self._pool, self._outbox)
        self._landing = Landing(
            self._roster, self._pool, self._attempts, self._outbox, prompt_cache=config.prompt_cache
        )
        self._promises = Promises(self._pool, config.block_tokens)
        self._planned_steps = 0
        self._ahead: Steady | None = None  # the last answer of `steady`, while it holds

    # ------------------------------------------------------------ commands

    def handle(self, command: WorkerCommand) -> list[WorkerEvent]:
        """Obey one command and return all pending events, its answer among them. Raises `Bug` for an order
        that can't have been given: a start of an attempt that is here already or is older than one here."""
        self._ahead = None
        if type(command) is StartPrefill:
            sequence = Sequence.to_prefill(command, self._config.block_tokens)
            sequence.reserved_blocks = self._promises.claim(sequence)
            self._roster.prefills.push(self._attempts.meet(sequence))
        elif type(command) is Reserve:
            self._outbox.append(self._promises.reserve(command))
        elif type(command) is LeaseBlocks:
            block_ids = self._pool.lend(command.lease_id, command.hashes)
            self._outbox.append(Leased(command.lease_id, block_ids))
        elif type(command) is ReleaseLease:
            self._pool.release_lease(command.lease_id)
        elif type(command) is StartDecode:
            self._import(self._attempts.meet(self._promises.expected(command)))
        elif type(command) is FinishWork or type(command) is DropWork:
            self._promises.drop(command.request_id, command.attempt)
            self._attempts.drop(command.request_id, command.attempt)
        else:
            assert_never(command)
        return self.drain_events()

    def _import(self, sequence: Sequence) -> None:
        if sequence.source is None:
            self._roster.imports.push(sequence)
        elif seat_fetch(sequence, self._pool):
            self._fetch(sequence, sequence.source)
        else:
            self._attempts.bounce(sequence, NO_ROOM)

    def drain_events(self) -> list[WorkerEvent]:
        """All pending events, as soon as one is an answer; news of the prompt cache wait for one, and come
        before it: whoever reads that a request ended knows its blocks.

        Nobody waits for such news: a block that was cached while its sequence runs is wanted by a later turn,
        which comes after the end, and the index may lag behind the truth anyway, since a lease names what is
        really there. So a step that only fills blocks says nothing.
        """
        if not self._outbox:
            return []
        events = [*self._pool.drain_news(), *self._outbox]
        self._outbox.clear()
        return events

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
            self._attempts.settle_drop(sequence)
        return self.drain_events()

    def fetch_failed(self, request_id: RequestId, attempt: int) -> list[WorkerEvent]:
        """The KV does not come: the sequence is given back. Returns all pending events. Raises `Bug` if no
        such transfer is under way."""
        self._ahead = None
        sequence = self._roster.fetching.pop(request_id, attempt)
        if sequence.dropped:
            self._roster.imports.push(sequence)
            self._attempts.settle_drop(sequence)
        else:
            self._attempts.bounce(sequence, FETCH_FAILED)
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

    # ------------------------------------------------------------ plan

    def plan(self) -> StepPlan | None:
        """The next step, or None: nothing can run until a command arrives. Either way events may be pending
        (`drain_events`).

        A sequence is admitted here: `PrefillStarted`, and for an import `DecodeStarted` with the bytes that
        this very step copies before its forward pass. Raises `Bug` while a step is under way.
        """
        if self._attempts.flight is not None:
            raise Bug("a second step is planned while one is under way")
        batch = self._compose()
        return None if batch is None else self._to_plan(batch)

    def begin(self) -> StepShape | None:
        """`plan` for who has no engine: the same step, told by its sizes. It ends with `finish`."""
        if self._attempts.flight is not None:
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
        self._attempts.flight = batch
        return batch

    def _announce(self, batch: Batch) -> None:
        for sequence, reason, ran in batch.bounced:
            self._attempts.given_back(sequence, reason, ran)
        for sequence in batch.admitted:
            self._outbox.append(self._admission(sequence))

    def _admission(self, sequence: Sequence) -> WorkerEvent:
        name, attempt = sequence.request_id, sequence.attempt
        if sequence.phase is _PREFILL:
            return PrefillStarted(name, attempt, cached_tokens=sequence.computed)
        return DecodeStarted(name, attempt, copied_bytes=sequence.copied_blocks * self._config.block_bytes)

    def _to_plan(self, batch: Batch) -> StepPlan:
        ended, self._attempts.ended = self._attempts.ended, []
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
        self._attempts.ended = []  # there is nobody to be told
        decodes = self._roster.decodes
        context_tokens = decodes.context_tokens
        left_out: tuple[RequestId, ...] = ()
        imports: tuple[RequestId, ...] = ()
        if batch.decodes < len(decodes.sequences):
            rest = decodes.sequences[batch.decodes :]
            context_tokens -= sum(map(decodes.computed, rest))
            left_out = tuple([sequence.request_id for sequence in rest])
        if batch.admitted and batch.decodes:
            imports = tuple([item.request_id for item in batch.admitted if item.phase is _DECODE])
        chunks = [chunk_shape(sequence, count) for sequence, count in batch.chunks]
        return StepShape(
            batch.step, chunks, batch.decodes, context_tokens, imports, left_out, len(batch.copies)
        )

    # ------------------------------------------------------------ commit

    def commit(self, plan: StepPlan, result: StepResult) -> StepOutcome:
        """Take in what the engine made of ``plan``. Raises `Bug` if it is not the step under way or a
        sampled token is missing."""
        batch = self._landing.land(plan.step)
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
        self._landing.end_round(batch, reasons)
        for sequence, count in batch.chunks:
            start = sequence.computed
            samples = self._landing.advance(sequence, count)
            if not sequence.dropped:
                logprobs += prompt_logprobs(sequence, start, result)
            if samples:
                sampled = _sampled(sequence, result)
                reason = self._landing.take_first(sequence, sampled.token_id)
                tokens.append(token_out(sequence, sampled, reason))
        return StepOutcome(
            events=tuple(self.drain_events()), tokens=tuple(tokens), prompt_logprobs=tuple(logprobs)
        )

    def finish(self, token_id: TokenId, others: dict[RequestId, TokenId]) -> list[WorkerEvent]:
        """`commit` for a step that `begin` began: everyone but the ``others`` samples ``token_id``, and
        nobody is given the tokens. Returns all pending events. Raises `Bug` if no step is under way, or if
        ``token_id`` would end a sequence (it may end one whose first token it is)."""
        if self._attempts.flight is None:
            raise Bug("a step is finished but none is under way")
        decodes = self._roster.decodes
        reasons: dict[Sequence, FinishReason] = {}
        if self._attempts.flight.decodes:
            decodes.fill_with(token_id)
        for request_id, other in others.items():
            sequence = self._attempts.decode_of(request_id)
            if sequence is not None:
                decodes.catch_up(sequence)
                reason = sequence.append(other)
                if reason is not None:
                    reasons[sequence] = reason
        batch = self._landing.land(self._attempts.flight.step)
        self._landing.end_round(batch, reasons)
        for sequence, count in batch.chunks:
            if self._landing.advance(sequence, count):
                self._landing.take_first(sequence, others.get(sequence.request_id, token_id))
        return self.drain_events()

    # ------------------------------------------------------------ leap

    def steady(self, at_most: int | None = None) -> Steady | None:
        """What lies ahead if the next step, and perhaps many after it, only decodes or is in the middle of a
        prompt; None if it does anything else. Who will not want more steps than ``at_most`` says so: looking
        less far costs less.
        Raises `Bug` while a step is under way."""
        if self._attempts.flight is not None:
            raise Bug("a leap is asked for while a step is under way")
        self._ahead = self._leaper.steady(at_most)
        return self._ahead

    def leap(self, steps: int, token_id: TokenId) -> None:
        """Leave what ``steps`` rounds of plan and commit would leave if each sampled ``token_id`` for every
        sequence; nobody is given the tokens. Raises `Bug` for more steps than are `steady`."""
        steady = self._ahead
        if steady is None or steps > steady.steps or self._attempts.flight is not None:
            steady = self.steady(max(steps, 1))
        if steps < 0 or steps > (steady.steps if steady else 0):
            raise Bug(f"a leap over {steps} steps, steady are {steady.steps if steady else 0}")
        if steady is None or not steps:
            return
        self._leaper.leap(steady, steps, token_id)
        self._ahead = None
        self._attempts.ended = []  # the first of these steps would have told the engine
        self._planned_steps += steps
        totals = self._landing.totals
        totals.steps += steps
        totals.decode_steps += 0 if steady.new_tokens else steps
        totals.decode_tokens += steps * steady.decodes
        totals.prefill_tokens += steps * steady.new_tokens

    # ------------------------------------------------------------ looking in

    def has_work(self) -> bool:
        """Whether any sequence waits, runs or is in the step under way."""
        return bool(self._attempts.flight or self._roster.waiting or self._roster.running)

    @property
    def held_blocks(self) -> int:
        """Blocks that sequences and leases hold now."""
        return self._pool.held_blocks

    def stats(self, prefill_s: float = 0.0, decode_s: float = 0.0) -> WorkerStats:
        """Load now and totals of tokens and steps; the seconds so far come from who has a clock."""
        pool, roster, totals = self._pool, self._roster, self._landing.totals
        return WorkerStats(
            steps=totals.steps,
            busy=self._attempts.flight is not None or self._batcher.can_run(),
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
            prefill_s_total=prefill_s,
            decode_s_total=decode_s,
        )

    def check(self) -> None:
        """Raise `Bug` unless every block, reference and promise is accounted for."""
        promised = sum(sequence.reserved_blocks for sequence in [*self._promises, *self._roster])
        self._pool.check([sequence.own_blocks for sequence in self._roster], promised)
        check_roster(self._roster, self._pool, self._config.max_running)
        self._attempts.check()


def _sampled(sequence: Sequence, result: StepResult) -> Sampled:
    sampled = result.sampled.get(sequence.request_id)
    if sampled is None:
        raise Bug(f"no token was sampled for {sequence.request_id}")
    return sampled
