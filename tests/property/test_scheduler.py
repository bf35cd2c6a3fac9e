"""Any schedule of arrivals, steps, drops, leases, hand-overs, bounces and restarts, on three workers that
share one memory: every request gets exactly its tokens, and every block is accounted for.

The machine plays a careless orchestrator: it keeps the protocol, but places, drops and delays at random.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

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
from diptych.domain.events import (
    BlocksCached,
    BlocksEvicted,
    Bounced,
    DecodeStarted,
    Dropped,
    Finished,
    Leased,
    PrefillDone,
    PrefillStarted,
    Reserved,
    WorkerEvent,
)
from diptych.domain.ids import BlockId, LeaseId, RequestId, TokenId, WorkerId
from diptych.domain.kv import blocks_for
from diptych.domain.request import Logprob, SamplingParams, TokenOut
from diptych.domain.step import StepPlan
from diptych.domain.worker import Arena
from diptych.scheduling import Fetch, Scheduler, SchedulerConfig
from support.toy_engine import ToyEngine, ToyMemory, ToyModel, reference_output, reference_prompt_logprobs
from support.works import make_work

BLOCK_TOKENS = 4
ARENA_BLOCKS = 10  # room for the longest request, hardly for two
MODEL = ToyModel(vocabulary=50, stop_probability=0.06)
BASES = (
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
    [1, 2, 3, 4, 20, 21, 22, 23, 24, 25, 26, 27],
)
LONGEST_PROMPT = 24
LIMITS = ((6, 6), (16, 8), (2, 3))  # token budget and most running of each worker

pick = st.integers(0, 1000)


@dataclass(frozen=True)
class Ask:
    """One arrival. ``placement``: prefill worker, decode worker, blocks to reserve, first block to borrow,
    whether the decode worker fetches the KV."""

    base: int
    length: int
    tail: tuple[TokenId, ...]
    max_tokens: int
    priority: int
    seed: int
    logprobs: int
    placement: tuple[int, int, int, int, bool]


numbers = st.integers(0, len(LIMITS) - 1)
ask = st.builds(
    Ask,
    base=st.integers(0, len(BASES) - 1),
    length=st.integers(0, 16),
    tail=st.lists(st.integers(30, 32), max_size=5).map(tuple),
    max_tokens=st.integers(1, 16),
    priority=st.integers(0, 1),
    seed=pick,
    logprobs=st.integers(0, 7),
    placement=st.tuples(numbers, numbers, st.integers(0, 3), st.integers(0, 2), st.booleans()),
)


@dataclass
class Worker:
    """One incarnation, its step under way, and what its cache is said to hold."""

    scheduler: Scheduler
    engine: ToyEngine
    plan: StepPlan | None = None
    index: dict[bytes, BlockId] = field(default_factory=dict)
    fetches: list[Fetch] = field(default_factory=list)
    """Transfers under way."""


@dataclass
class Lease:
    """What one borrower may use of one owner."""

    owner: int
    lease_id: LeaseId
    block_ids: tuple[BlockId, ...]


@dataclass
class Attempt:
    """One placement. ``holders``: the workers that hold something of it or compute with its blocks."""

    number: int
    prefill: int
    decode: int
    holders: set[int]
    known_output: int
    """Output tokens that existed when it was placed."""
    export_lease: LeaseId | None = None
    leases: list[Lease] = field(default_factory=list)
    handoff: PrefillDone | None = None
    awaited: set[int] = field(default_factory=set)
    apart: bool = False
    """The two workers count as being in different memory domains."""


@dataclass
class Client:
    """One request and what came out of it."""

    request_id: RequestId
    prompt: tuple[TokenId, ...]
    sampling: SamplingParams
    priority: int
    arrival_s: float
    output: list[TokenId] = field(default_factory=list)
    logprobs: dict[int, Logprob] = field(default_factory=dict)
    attempts: int = 0
    current: Attempt | None = None
    retired: list[Attempt] = field(default_factory=list)
    over: bool = False
    finished: bool = False
    """Over because a worker said so (and not because the client left)."""


class SchedulerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.memory = ToyMemory(ARENA_BLOCKS * len(LIMITS), BLOCK_TOKENS)
        self.workers = [self._start_worker(number, {}) for number in range(len(LIMITS))]
        self.clients: dict[RequestId, Client] = {}
        self.lent: list[Lease] = []  # to borrowers outside of this world
        self.names = 0

    # ------------------------------------------------------------ the world

    def _start_worker(self, number: int, adopted: dict[LeaseId, tuple[BlockId, ...]]) -> Worker:
        arena = Arena(number * ARENA_BLOCKS, ARENA_BLOCKS)
        budget, running = LIMITS[number]
        config = SchedulerConfig(arena, BLOCK_TOKENS, budget, running, self.memory.layout.block_bytes, True)
        return Worker(Scheduler(config, adopted), ToyEngine(self.memory, MODEL, arena))

    def _fresh_name(self, kind: str) -> str:
        self.names += 1
        return f"{kind}-{self.names:04}"

    def _tell(self, number: int, command: WorkerCommand) -> list[WorkerEvent]:
        worker = self.workers[number]
        events = worker.scheduler.handle(command)
        worker.fetches += worker.scheduler.drain_fetches()
        self._hear(number, events)
        return events

    def _hear(self, number: int, events: Iterable[WorkerEvent]) -> None:
        index = self.workers[number].index
        for event in events:
            match event:
                case BlocksCached():
                    assert not index.keys() & set(event.hashes), "published twice"
                    index.update(zip(event.hashes, event.block_ids, strict=True))
                case BlocksEvicted():
                    for block_hash in event.hashes:
                        del index[block_hash]
                case PrefillDone():
                    self._prefill_done(number, event)
                case Finished():
                    client = self._client_of(event.request_id, event.attempt)
                    client.over = client.finished = True
                    self._retire(client, gone={number})
                case Bounced():
                    self._retire(self._client_of(event.request_id, event.attempt), gone={number})
                case Dropped():
                    self._dropped(number, event)
                case PrefillStarted() | DecodeStarted():
                    self._client_of(event.request_id, event.attempt)
                case _:
                    pass  # answers, read by who asked

    def _client_of(self, request_id: RequestId, attempt: int) -> Client:
        client = self.clients[request_id]
        assert client.current is not None and client.current.number == attempt, "a stale attempt spoke"
        return client

    def _prefill_done(self, number: int, event: PrefillDone) -> None:
        attempt = self._client_of(event.request_id, event.attempt).current
        assert attempt is not None and attempt.export_lease is not None
        arena = Arena(number * ARENA_BLOCKS, ARENA_BLOCKS)
        own = tuple(block for block in event.block_ids if block in arena)
        attempt.leases.append(Lease(number, attempt.export_lease, own))
        attempt.holders.discard(number)
        attempt.handoff = event

    def _retire(self, client: Client, gone: set[int]) -> None:
        """The attempt is over; leases end when nobody computes with them any more."""
        attempt, client.current = client.current, None
        assert attempt is not None
        attempt.awaited = attempt.holders - gone
        client.retired.append(attempt)
        for number in sorted(attempt.awaited):
            self._tell(number, DropWork(client.request_id, attempt.number))
        self._release_if_unused(client, attempt)

    def _dropped(self, number: int, event: Dropped) -> None:
        client = self.clients[event.request_id]
        for attempt in list(client.retired):
            if attempt.number == event.attempt:
                attempt.awaited.discard(number)
                self._release_if_unused(client, attempt)

    def _release_if_unused(self, client: Client, attempt: Attempt) -> None:
        if attempt.awaited or attempt not in client.retired:
            return
        client.retired.remove(attempt)
        for lease in attempt.leases:
            self._tell(lease.owner, ReleaseLease(lease.lease_id))

    def _stream(self, tokens: Iterable[TokenOut]) -> None:
        for token in tokens:
            client = self._client_of(token.request_id, token.attempt)
            assert token.index == len(client.output), "a token was sent twice or skipped"
            client.output.append(token.token_id)

    # ------------------------------------------------------------ placing

    def _place(
        self, client: Client, prefill: int, decode: int, growth: int, skip: int, apart: bool = False
    ) -> None:
        client.attempts += 1
        attempt = Attempt(
            client.attempts, prefill, decode, holders={prefill, decode}, known_output=len(client.output)
        )
        if prefill != decode:
            attempt.apart = apart
            tokens = len(client.prompt) + len(client.output)
            blocks = growth + apart * blocks_for(tokens, BLOCK_TOKENS)
            answer = self._tell(decode, Reserve(self._work(client, attempt), blocks))[-1]
            if not isinstance(answer, Reserved):
                return
            attempt.export_lease = LeaseId(self._fresh_name("export"))
        client.current = attempt
        borrowed = self._borrow(client, attempt, skip)
        work = self._work(client, attempt)
        self._tell(prefill, StartPrefill(work, borrowed, attempt.export_lease))

    def _borrow(self, client: Client, attempt: Attempt, skip: int) -> dict[int, BlockId]:
        """Lease what other workers have of the prefix, from block ``skip`` on."""
        borrowed: dict[int, BlockId] = {}
        hashes = self._work(client, attempt).block_hashes
        for owner in range(len(self.workers)):
            if owner == attempt.prefill or skip >= len(hashes):
                continue
            lease_id = LeaseId(self._fresh_name("lease"))
            answer = self._tell(owner, LeaseBlocks(lease_id, hashes[skip:]))[-1]
            assert isinstance(answer, Leased)
            if answer.block_ids:
                attempt.leases.append(Lease(owner, lease_id, answer.block_ids))
                borrowed |= dict(enumerate(answer.block_ids, skip))
        return borrowed

    def _work(self, client: Client, attempt: Attempt):
        return make_work(
            client.request_id,
            client.prompt,
            client.sampling,
            block_tokens=BLOCK_TOKENS,
            output=client.output,
            attempt=attempt.number,
            priority=client.priority,
            arrival_s=client.arrival_s,
        )

    def _queued(self) -> list[Client]:
        return [client for client in self.clients.values() if not client.over and client.current is None]

    def _active(self) -> list[Client]:
        return [client for client in self.clients.values() if client.current is not None]

    def _handing_off(self) -> list[Client]:
        return [client for client in self._active() if client.current and client.current.handoff]

    # ------------------------------------------------------------ rules

    @initialize(asks=st.lists(ask, min_size=4, max_size=12))
    def morning(self, asks: list[Ask]) -> None:
        """Some load from the start: an idle world breaks nothing."""
        for item in asks:
            self.arrive(item)

    @rule(item=ask)
    def arrive(self, item: Ask) -> None:
        prompt = (*BASES[item.base][: item.length], *item.tail)
        ended = [client for client in self.clients.values() if client.over]
        if ended and item.seed % 2:  # the next turn of a conversation
            last = ended[item.seed % len(ended)]
            prompt = (*last.prompt, *last.output, *item.tail)
        if not prompt or len(prompt) > LONGEST_PROMPT:
            return
        sampling = SamplingParams(
            max_tokens=item.max_tokens,
            seed=item.seed,
            stop_token_ids=(49, 48),
            prompt_logprobs=0 if item.logprobs == 0 else None,
        )
        request_id = RequestId(self._fresh_name("request"))
        client = Client(request_id, prompt, sampling, item.priority, float(self.names))
        self.clients[request_id] = client
        self._place(client, *item.placement)

    @precondition(lambda self: self._queued())
    @rule(
        which=pick,
        prefill=pick,
        decode=pick,
        growth=st.integers(0, 3),
        skip=st.integers(0, 2),
        apart=st.booleans(),
    )
    def place(self, which: int, prefill: int, decode: int, growth: int, skip: int, apart: bool) -> None:
        queued = self._queued()
        workers = len(self.workers)
        self._place(queued[which % len(queued)], prefill % workers, decode % workers, growth, skip, apart)

    @precondition(lambda self: self._handing_off())
    @rule(which=pick)
    def hand_off(self, which: int) -> None:
        clients = self._handing_off()
        self._hand_off(clients[which % len(clients)])

    def _hand_off(self, client: Client) -> None:
        attempt = client.current
        assert attempt is not None and attempt.handoff is not None
        done, attempt.handoff = attempt.handoff, None
        attempt.holders = {attempt.decode}
        new_token_ids = tuple(client.output[attempt.known_output :])
        order = StartDecode(
            client.request_id,
            attempt.number,
            new_token_ids,
            done.block_ids,
            done.computed_tokens,
            source=WorkerId(f"worker-{attempt.prefill}") if attempt.apart else None,
        )
        self._tell(attempt.decode, order)

    @rule(number=numbers, which=pick, luck=st.integers(0, 4))
    def transfer(self, number: int, which: int, luck: int) -> None:
        """A transfer ends, seldom without having copied anything."""
        worker = self.workers[number]
        if not worker.fetches:
            return
        fetch = worker.fetches.pop(which % len(worker.fetches))
        assert fetch.tokens > (len(fetch.target_block_ids) - 1) * BLOCK_TOKENS
        if not luck:
            self._hear(number, worker.scheduler.fetch_failed(fetch.request_id, fetch.attempt))
            return
        for source, target in zip(fetch.source_block_ids, fetch.target_block_ids, strict=True):
            self.memory.copy(source, target)
        self._hear(number, worker.scheduler.fetched(fetch.request_id, fetch.attempt))

    @rule(number=numbers)
    def plan(self, number: int) -> None:
        worker = self.workers[number]
        if worker.plan is not None:
            return
        busy = worker.scheduler.stats().busy
        worker.plan = worker.scheduler.plan()
        events = worker.scheduler.drain_events()
        assert busy == (worker.plan is not None or any(isinstance(event, Bounced) for event in events))
        budget, running = LIMITS[number]
        if worker.plan is not None:
            assert 0 < worker.plan.tokens <= budget
            assert len(worker.plan.slices) <= running
        self._hear(number, events)

    @rule(number=numbers)
    def commit(self, number: int) -> None:
        worker = self.workers[number]
        if worker.plan is None:
            return
        plan, worker.plan = worker.plan, None
        outcome = worker.scheduler.commit(plan, worker.engine.execute(plan))
        self._stream(outcome.tokens)
        for found in outcome.prompt_logprobs:
            client = self._client_of(found.request_id, found.attempt)
            client.logprobs.update(enumerate(found.entries, found.start))
        self._hear(number, outcome.events)

    @rule(number=numbers, steps=st.integers(1, 5))
    def run(self, number: int, steps: int) -> None:
        for _ in range(steps):
            self.commit(number)
            self.plan(number)
        self.commit(number)

    @precondition(lambda self: self._active())
    @rule(which=pick, again=st.booleans(), finish=st.booleans())
    def drop(self, which: int, again: bool, finish: bool) -> None:
        """The client leaves, its stop string is found, or the attempt is reset."""
        active = self._active()
        client = active[which % len(active)]
        attempt = client.current
        assert attempt is not None
        client.over = not again
        self._retire(client, gone=set())
        if finish and not again:  # a second order about the same attempt is answered too
            for number in sorted(attempt.holders):
                self._tell(number, FinishWork(client.request_id, attempt.number))

    @precondition(lambda self: self._active())
    @rule(which=pick)
    def supersede(self, which: int) -> None:
        """A newer attempt comes to a worker that was never told to drop the older one."""
        active = self._active()
        client = active[which % len(active)]
        attempt = client.current
        assert attempt is not None
        if attempt.prefill == attempt.decode and not attempt.leases:
            client.current = None
            self._place(client, attempt.prefill, attempt.prefill, 0, skip=99)

    @precondition(lambda self: self.clients)
    @rule(which=pick, owner=numbers)
    def lend(self, which: int, owner: int) -> None:
        client = list(self.clients.values())[which % len(self.clients)]
        hashes = self._work(client, Attempt(0, 0, 0, set(), 0)).block_hashes
        lease_id = LeaseId(self._fresh_name("lent"))
        answer = self._tell(owner, LeaseBlocks(lease_id, hashes))[-1]
        assert isinstance(answer, Leased)
        if answer.block_ids:
            self.lent.append(Lease(owner, lease_id, answer.block_ids))

    @precondition(lambda self: self.lent)
    @rule(which=pick)
    def take_back(self, which: int) -> None:
        lease = self.lent.pop(which % len(self.lent))
        self._tell(lease.owner, ReleaseLease(lease.lease_id))

    @rule(number=numbers, ran=st.booleans(), rare=st.integers(0, 3))
    def lose(self, number: int, ran: bool, rare: int) -> None:
        """The worker dies, perhaps in the middle of a step; its successor adopts what is still lent."""
        if rare:
            return
        worker = self.workers[number]
        if worker.plan is not None and ran:
            worker.engine.execute(worker.plan)  # bytes were written, but nobody heard of it
        attempts = [item for client in self.clients.values() for item in client.retired]
        attempts += [client.current for client in self._active() if client.current]
        leases = [lease for attempt in attempts for lease in attempt.leases] + self.lent
        adopted = {lease.lease_id: lease.block_ids for lease in leases if lease.owner == number}
        self.workers[number] = self._start_worker(number, adopted)
        for client in list(self.clients.values()):
            if client.current and number in client.current.holders | {client.current.decode}:
                self._retire(client, gone={number})
            for attempt in list(client.retired):
                attempt.awaited.discard(number)
                self._release_if_unused(client, attempt)

    @invariant()
    def accounts_agree(self) -> None:
        for worker in self.workers:
            worker.scheduler.check()
            stats = worker.scheduler.stats()
            assert stats.free_blocks + stats.cached_blocks + stats.held_blocks == ARENA_BLOCKS

    # ------------------------------------------------------------ the end

    def teardown(self) -> None:
        while self.lent:
            self.take_back(0)
        for _ in range(2000):
            if not self._drain_once():
                break
        assert not self._queued() and not self._active(), "some request never ended"
        for client in self.clients.values():
            self._check_client(client)
        for number, worker in enumerate(self.workers):
            self._check_empty(number, worker)

    def _drain_once(self) -> bool:
        """One round over everybody; False when all is done."""
        moved = False
        for number, worker in enumerate(self.workers):
            moved |= worker.plan is not None or bool(worker.fetches)
            self.transfer(number, 0, luck=1)
            self.commit(number)
            self.plan(number)
            moved |= worker.plan is not None
        for client in self._handing_off():
            self._hand_off(client)
            moved = True
        active, queued = self._active(), self._queued()
        if not active and queued:
            self._place(queued[0], 0, 0, 0, skip=0)
            return True
        if active and not moved:
            self._untie(active)
        return bool(active or moved)

    def _untie(self, active: list[Client]) -> None:
        """Prompts wait for room that is promised to others, whose prompts wait too. Only promises and leases
        can do that, and whoever gave them (a time limit there) has to take one back."""
        stats = [worker.scheduler.stats() for worker in self.workers]
        assert any(item.reserved_blocks or item.leases for item in stats), "stuck without a reason"
        self._retire(active[-1], gone=set())

    def _check_client(self, client: Client) -> None:
        expected = reference_output(client.prompt, client.sampling, MODEL)
        assert not client.retired
        assert client.output == (expected if client.finished else expected[: len(client.output)])
        if client.sampling.prompt_logprobs is not None and client.output:
            found = [client.logprobs[position] for position in range(1, len(client.prompt))]
            assert found == reference_prompt_logprobs(client.prompt, MODEL)

    def _check_empty(self, number: int, worker: Worker) -> None:
        """Nothing is held; the index is right; the engine has forgotten everyone but the very last."""
        last = RequestId(self._fresh_name("last"))
        sampling = SamplingParams(max_tokens=1, seed=0)
        self.clients[last] = Client(last, (40, 41), sampling, 0, 0.0)
        self._place(self.clients[last], number, number, 0, skip=99)
        self.run(number, 1)
        assert self.clients[last].over
        assert worker.engine.known <= {last}
        stats = worker.scheduler.stats()
        assert stats.held_blocks == stats.reserved_blocks == stats.leases == 0
        assert stats.cached_blocks == len(worker.index)
        assert not worker.scheduler.has_work() and not stats.busy
        assert worker.scheduler.plan() is None


SchedulerMachine.TestCase.settings = settings(
    max_examples=200, stateful_step_count=60, deadline=None, derandomize=True
)

# A failing example is made small for at most five minutes, and must be printed afterwards.
TestScheduler = pytest.mark.timeout(600)(SchedulerMachine.TestCase)
