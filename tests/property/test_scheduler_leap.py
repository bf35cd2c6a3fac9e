"""A leap leaves what stepping leaves: two schedulers get the same orders, one steps, one leaps, and their
whole states are compared. And a leap is as long as it can be."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from diptych.compiled import FINDER
from diptych.domain.commands import (
    DropWork,
    LeaseBlocks,
    ReleaseLease,
    Reserve,
    StartDecode,
    StartPrefill,
    WorkerCommand,
)
from diptych.domain.errors import Bug
from diptych.domain.events import BlocksCached, BlocksEvicted, Reserved, WorkerEvent
from diptych.domain.ids import LeaseId, RequestId, TokenId, WorkerId
from diptych.domain.kv import blocks_for
from diptych.domain.request import Sampled, SamplingParams
from diptych.domain.step import StepPlan, StepResult
from diptych.domain.worker import Arena
from diptych.scheduling import Fetch, Scheduler, SchedulerConfig
from diptych.scheduling.sequence import Sequence
from support.scheduler_state import prefilling, state_of
from support.shapes import of_chunk
from support.works import make_work

BLOCK_TOKENS = 3
ARENA = Arena(0, 14)
FOREIGN = 1000
"""Block ids from here on belong to others."""
TOKEN = 1
"""What every sequence samples; prompts are made of it too, so that outputs become prefixes of prompts."""
END = 0
"""The stop token."""

pick = st.integers(0, 1000)


@dataclass(frozen=True)
class Ask:
    """One arrival. ``growth``: blocks reserved if it is prefilled elsewhere (``apart``: in another memory
    domain); ``borrow``: leading blocks of the prompt that others lend."""

    prompt: tuple[int, ...]
    max_tokens: int
    priority: int
    elsewhere: bool
    apart: bool
    growth: int
    borrow: int


asks = st.builds(
    Ask,
    prompt=st.lists(st.sampled_from((TOKEN, TOKEN, TOKEN, 2)), min_size=1, max_size=14).map(tuple),
    max_tokens=st.integers(1, 40),
    priority=st.integers(0, 1),
    elsewhere=st.booleans(),
    apart=st.booleans(),
    growth=st.integers(0, 4),
    borrow=st.integers(0, 5),
)


def flat(events: list[WorkerEvent]) -> list[object]:
    """Events with the news about the cache one by one: a leap tells them in longer runs."""
    found: list[object] = []
    for event in events:
        match event:
            case BlocksCached():
                found += zip(event.hashes, event.block_ids, strict=True)
            case BlocksEvicted():
                found += event.hashes
            case _:
                found.append(event)
    return found


def step(scheduler: Scheduler, last: int | None = None) -> tuple[StepPlan | None, list[WorkerEvent]]:
    """One whole step in which everyone samples the same, except that somebody (number ``last``) may end."""
    plan = scheduler.plan()
    events = scheduler.drain_events()
    if plan is not None:
        named = ends(plan, last)
        tokens = {piece.request_id: TOKEN for piece in plan.slices if piece.sample} | named
        sampled = {name: Sampled(token) for name, token in tokens.items()}
        events += scheduler.commit(plan, StepResult(sampled=sampled)).events
    return plan, events


def ends(plan: StepPlan, last: int | None) -> dict[RequestId, TokenId]:
    """Who samples the stop token."""
    names = [piece.request_id for piece in plan.slices if piece.sample]
    return {} if last is None or not names else {names[last % len(names)]: END}


def light_step(scheduler: Scheduler, plan: StepPlan | None, last: int | None) -> list[WorkerEvent]:
    """The same without an engine. ``plan``: what another scheduler has planned."""
    shape = scheduler.begin()
    events = scheduler.drain_events()
    assert (shape is None) == (plan is None)
    if plan is None or shape is None:
        return events
    pieces = {piece.request_id: piece for piece in plan.slices}
    for chunk in shape.chunks:
        piece = pieces.pop(chunk.request_id)
        assert of_chunk(chunk) == (piece.request_id, len(piece.token_ids), piece.start, piece.sample)
    assert shape.step == plan.step
    assert shape.decodes == len(pieces)
    assert shape.context_tokens == sum(piece.start for piece in pieces.values())
    assert shape.copied_blocks == len(plan.copies)
    assert [new.request_id for new in plan.new if new.request_id in pieces] == list(shape.imports)
    return events + scheduler.finish(TOKEN, ends(plan, last))


def goes_on(plan: StepPlan | None, decodes: int, prompts: list[Sequence]) -> bool:
    """Whether a step decoded what had decoded before it, perhaps went on with the first of the ``prompts``
    that had begun without ending it, and did nothing else."""
    if plan is None or plan.new or plan.copies:
        return False
    chunks = plan.slices[decodes:]
    if not chunks:
        return len(plan.slices) == decodes
    return len(chunks) == 1 and chunks[0].request_id == prompts[0].request_id and not chunks[0].sample


class LeapMachine(RuleBasedStateMachine):
    @initialize(
        budget=st.integers(1, 8),
        running=st.integers(1, 6),
        cache=st.booleans(),
        chunked=st.booleans(),
        first=st.lists(asks, min_size=1, max_size=6),
    )
    def morning(self, budget: int, running: int, cache: bool, chunked: bool, first: list[Ask]) -> None:
        self.config = SchedulerConfig(ARENA, BLOCK_TOKENS, budget, running, 64, cache, chunked)
        self.stepper = Scheduler(self.config)
        self.leaper = Scheduler(self.config)
        self.works: list[RequestId] = []
        self.leases: list[LeaseId] = []
        self.fetches: list[Fetch] = []
        self.max_tokens: dict[RequestId, int] = {}
        for item in first:
            self.arrive(item)

    def _tell(self, command: WorkerCommand) -> list[WorkerEvent]:
        events = self.stepper.handle(command)
        assert flat(events) == flat(self.leaper.handle(command))
        return events

    @rule(item=asks)
    def arrive(self, item: Ask) -> None:
        name = f"r{len(self.works):03}"
        sampling = SamplingParams(max_tokens=item.max_tokens, seed=0, stop_token_ids=(END,))
        work = make_work(
            name,
            item.prompt,
            sampling,
            block_tokens=BLOCK_TOKENS,
            priority=item.priority,
            arrival_s=float(len(self.works)),
        )
        self.works.append(work.request_id)
        if not item.elsewhere:
            self._tell(StartPrefill(work, {index: FOREIGN + index for index in range(item.borrow)}))
            return
        blocks = tuple(range(FOREIGN, FOREIGN + blocks_for(len(item.prompt), BLOCK_TOKENS)))
        promised = item.growth + item.apart * len(blocks)
        if item.max_tokens > 1 and isinstance(self._tell(Reserve(work, promised))[-1], Reserved):
            source = WorkerId("elsewhere") if item.apart else None
            self._tell(StartDecode(work.request_id, 1, (TOKEN,), blocks, len(item.prompt), source))
            orders = self.stepper.drain_fetches()
            assert orders == self.leaper.drain_fetches()
            self.fetches += orders

    @precondition(lambda self: self.fetches)
    @rule(which=pick, failed=st.booleans())
    def transfer(self, which: int, failed: bool) -> None:
        fetch = self.fetches.pop(which % len(self.fetches))
        for scheduler in (self.stepper, self.leaper):
            end = scheduler.fetch_failed if failed else scheduler.fetched
            end(fetch.request_id, fetch.attempt)

    @precondition(lambda self: self.works)
    @rule(which=pick)
    def drop(self, which: int) -> None:
        self._tell(DropWork(self.works[which % len(self.works)], 1))

    @precondition(lambda self: self.works)
    @rule(length=st.integers(1, 5))
    def lend(self, length: int) -> None:
        hashes = make_work("", (TOKEN,) * 15, SamplingParams(max_tokens=1, seed=0), block_tokens=BLOCK_TOKENS)
        self.leases.append(LeaseId(f"lease-{len(self.leases)}"))
        self._tell(LeaseBlocks(self.leases[-1], hashes.block_hashes[:length]))

    @precondition(lambda self: self.leases)
    @rule(which=pick)
    def take_back(self, which: int) -> None:
        self._tell(ReleaseLease(self.leases[which % len(self.leases)]))

    @rule(steps=st.integers(1, 4), last=st.one_of(st.none(), pick))
    def steps(self, steps: int, last: int | None) -> None:
        for number in range(steps):
            plan, events = step(self.stepper, None if number else last)
            assert flat(events) == flat(light_step(self.leaper, plan, None if number else last))

    @rule(last=st.one_of(st.none(), pick))
    def drop_in_flight(self, last: int | None) -> None:
        """Somebody leaves while a step runs."""
        plan, shape = self.stepper.plan(), self.leaper.begin()
        if plan is None or shape is None:
            return
        if last is not None:
            self.drop(last)
        sampled = {piece.request_id: Sampled(TOKEN) for piece in plan.slices if piece.sample}
        events = self.stepper.commit(plan, StepResult(sampled=sampled)).events
        assert flat([*events]) == flat(self.leaper.finish(TOKEN, {}))

    @rule(share=st.integers(1, 4))
    def leap(self, share: int) -> None:
        """All of the steps that are ahead, or a part of them."""
        steady = self.leaper.steady()
        if steady is None or not steady.steps:
            return
        with pytest.raises(Bug):
            self.leaper.leap(steady.steps + 1, TOKEN)
        steps = -(-steady.steps // share)
        events: list[WorkerEvent] = []
        for number in range(steps):
            ahead = self.stepper.steady()
            assert ahead is not None
            assert ahead.steps >= steady.steps - number
            prompts = prefilling(self.stepper)
            plan, said = step(self.stepper)
            assert plan is not None
            assert goes_on(plan, ahead.decodes, prompts), (plan, said)
            assert steady.decodes == ahead.decodes
            assert sum(piece.start for piece in plan.slices[: ahead.decodes]) == ahead.context_tokens
            assert ahead.context_tokens == steady.context_tokens + number * steady.decodes
            chunks = [(len(piece.token_ids), piece.start) for piece in plan.slices[ahead.decodes :]]
            assert chunks == [(ahead.new_tokens, ahead.cached_tokens)] * bool(ahead.new_tokens)
            assert ahead.new_tokens == steady.new_tokens
            assert ahead.cached_tokens == steady.cached_tokens + number * steady.new_tokens
            events += said
        self.leaper.leap(steps, TOKEN)
        assert flat(events) == flat(self.leaper.drain_events())

    @rule()
    def leap_is_longest(self) -> None:
        """After a whole leap the next step ends somebody or does something new, unless a block has just been
        named that a waiting prompt could have asked for. With no leap ahead, the same."""
        scheduler = copy.deepcopy(self.leaper)
        steady = scheduler.steady()
        waited_for = False
        if steady is not None and steady.steps:
            scheduler.leap(steady.steps, TOKEN)
            named = any(run.cached for run in scheduler._pool._cache._news)
            waited_for = named and self._looks(scheduler)
        again = scheduler.steady()
        if waited_for:
            return
        assert again is None or not again.steps
        if again is None and self._looks(scheduler):
            return  # a prompt that had room but for the growth of this very step
        running, prompts = scheduler.stats().running, prefilling(scheduler)
        plan, _ = step(scheduler)
        ended = scheduler.stats().running < running
        assert ended or not goes_on(plan, running - len(prompts), prompts)

    def _looks(self, scheduler: Scheduler) -> bool:
        """Whether the next step may look at a waiting prompt."""
        prompts, head = prefilling(scheduler), scheduler._roster.prefills.head
        if prompts and (head is None or head.order > prompts[0].order):
            return False
        stats = scheduler.stats()
        most = self.config.max_running
        if self.config.chunked_prefill:
            most = min(most, self.config.token_budget)
        full = stats.running == most
        return bool(stats.waiting) and not full

    @invariant()
    def states_agree(self) -> None:
        if hasattr(self, "leaper"):
            self.leaper.check()
            assert state_of(self.stepper) == state_of(self.leaper)
            assert self.stepper.stats() == self.leaper.stats()


TestLeap = pytest.mark.skipif(
    FINDER.active,
    reason="copies schedulers, which compiled ones cannot be; runs on the sources (tests/compiled)",
)(LeapMachine.TestCase)
TestLeap.settings = settings(max_examples=150, stateful_step_count=25, deadline=None, derandomize=True)
