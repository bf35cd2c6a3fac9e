"""The orchestrator against workers that answer when and what they like.

No scheduler here: each fake keeps a list of things that it still may say, and says any of them at any time:
refusals, bounces and empty leases out of the blue, answers of different requests in any order, nothing at all
for long. What it says of one attempt follows the contract of the commands (a token only while it computes,
nothing after `Dropped`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from diptych.domain.cluster import LimitsSpec
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
    ReserveRefused,
    StopMatched,
)
from diptych.domain.ids import BlockHash, BlockId, LeaseId, RequestId, WorkerId
from diptych.domain.kv import blocks_for
from diptych.domain.lifecycle import State
from diptych.domain.request import FinishReason, Request, Work
from diptych.domain.worker import Role, WorkerInfo, WorkerStats
from support.head import BLOCK_TOKENS, Head, make_info, make_request

P, D, M = Role.PREFILL, Role.DECODE, Role.MIXED
A, B = "a", "b"
TOPOLOGIES: tuple[tuple[tuple[Role, str], ...], ...] = (
    ((P, A), (D, A)),
    ((P, A), (P, A), (D, A), (D, A)),
    ((M, A),),
    ((M, A), (M, A)),
    ((P, A), (D, A), (M, A)),
    ((P, A), (D, B)),
    ((P, A), (D, A), (P, B), (D, B)),
    ((P, A), (P, A), (D, B), (M, B)),
)
"""Roles and memory domains."""

Topology = tuple[tuple[Role, str], ...]
ENDS = (State.FINISHED, State.ABORTED, State.REJECTED, State.FAILED)

Key = tuple[RequestId, int]


@dataclass
class Task:
    """What a fake has of one attempt."""

    reserved: int | None = None
    """Asked blocks; answered if `answered`."""
    answered: bool = False
    prefill: StartPrefill | None = None
    expected: Work | None = None
    """What was reserved for."""
    decode: Work | None = None
    order: StartDecode | None = None
    started: bool = False
    dropping: bool = False


@dataclass
class Fake:
    """A worker without a will to please."""

    info: WorkerInfo
    tasks: dict[Key, Task] = field(default_factory=dict)
    asked: dict[LeaseId, LeaseBlocks] = field(default_factory=dict)
    leases: dict[LeaseId, tuple[BlockId, ...]] = field(default_factory=dict)
    cached: dict[BlockHash, BlockId] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.info.worker_id

    def obey(self, command: WorkerCommand) -> None:
        """Note an order. Everything that must not be ordered fails here."""
        match command:
            case Reserve(work, blocks):
                assert 0 < blocks <= self.info.arena.blocks
                assert (work.request_id, work.attempt) not in self.tasks, "reserved twice"
                self.tasks[work.request_id, work.attempt] = Task(reserved=blocks, expected=work)
            case StartPrefill(work, _, export_lease):
                task = self.tasks.setdefault((work.request_id, work.attempt), Task())
                assert task.prefill is task.decode is None and not task.dropping, "started twice"
                assert (export_lease is None) or task.reserved is None
                task.prefill = command
            case StartDecode(request_id, attempt, new_token_ids, block_ids, computed, source):
                task = self.tasks[request_id, attempt]
                assert task.answered and task.expected and task.decode is None and not task.dropping
                task.decode = make_grown(task.expected, (*task.expected.token_ids, *new_token_ids))
                assert computed == len(task.decode.token_ids) - 1
                assert len(block_ids) == blocks_for(computed, BLOCK_TOKENS)
                assert source is None or (task.reserved or 0) >= blocks_for(computed + 1, BLOCK_TOKENS)
                task.order = command
            case DropWork(request_id, attempt) | FinishWork(request_id, attempt):
                self.tasks.setdefault((request_id, attempt), Task()).dropping = True
            case LeaseBlocks(lease_id, hashes):
                assert hashes and lease_id not in self.asked and lease_id not in self.leases
                self.asked[lease_id] = command
            case ReleaseLease(lease_id):
                self.leases.pop(lease_id, None)


class AnyAnswers(RuleBasedStateMachine):
    """One thing is said, or happens, at a time."""

    @initialize(topology=st.sampled_from(TOPOLOGIES), losses=st.sampled_from([1, 100]))
    def build(self, topology: Topology, losses: int) -> None:
        self.head = Head(LimitsSpec(max_losses=losses, prefill_backlog_tokens=12, queue_requests=4))
        self.infos = [
            make_info(
                f"w{n}",
                role,
                start=12 * sum(it == domain for _, it in topology[:n]),
                blocks=12,
                domain=domain,
            )
            for n, (role, domain) in enumerate(topology)
        ]
        self.fakes: dict[str, Fake] = {}
        self.incarnations: dict[str, int] = {}
        self.requests: dict[str, Request] = {}
        self.outputs: dict[str, list[int]] = {}
        self.void: dict[str, int] = {}
        self.gone: set[str] = set()
        for info in self.infos:
            self._join(info)

    # ------------------------------------------------------------ the road

    def _join(self, info: WorkerInfo) -> None:
        number = self.incarnations[info.worker_id] = self.incarnations.get(info.worker_id, 0) + 1
        again = msgspec.structs.replace(info, incarnation=number)
        fake = Fake(again, leases=dict(self.head.core.adopted_leases(info.worker_id)))
        self.fakes[info.worker_id] = fake
        self.head.join(again)
        self._carry()

    def _carry(self) -> None:
        """Take every order to its worker; fence those that are to be killed."""
        sent, self.head.sent = self.head.sent, []
        for send in sent:
            if isinstance(send.command, DropWork):
                rid = send.command.request_id
                self.void[rid] = max(self.void.get(rid, 0), send.command.attempt)
            fake = self.fakes.get(send.worker_id)
            if fake is not None and fake.info.incarnation == send.incarnation:
                fake.obey(send.command)
        kills, self.head.kills = self.head.kills, []
        for kill in kills:
            if kill.worker_id in self.fakes:
                self._lose(kill.worker_id)

    def _lose(self, name: str) -> None:
        del self.fakes[name]
        live = {rid: output for rid, output in self.outputs.items() if rid not in self.head.reports}
        self.head.lose(name, **live)
        self._carry()

    def _say(self, fake: Fake, event: object, key: Key | None = None) -> None:
        output = None
        if key is not None and key[0] not in self.head.reports:
            output = self.outputs[key[0]]
        self.head.say(fake.name, event, output)  # type: ignore[arg-type]
        self._carry()

    def _token(self, key: Key, index: int) -> None:
        """A token goes straight to the client."""
        rid, attempt = key
        if rid in self.head.reports or attempt <= self.void.get(rid, 0):
            return
        assert index == len(self.outputs[rid]), f"{rid}: token {index} comes after {len(self.outputs[rid])}"
        self.outputs[rid].append(100 + index)

    def _pick(self, number: int) -> Fake | None:
        names = sorted(self.fakes)
        return self.fakes[names[number % len(names)]] if names else None

    # ------------------------------------------------------------ what fakes say

    @rule(turns=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=8))
    def go_on(self, turns: list[tuple[int, int]]) -> None:
        """Workers go on with what they have, kindly."""
        for number, which in turns:
            self._turn(number, which, kindly=True)

    @rule(number=st.integers(0, 3), which=st.integers(0, 9))
    def disappoint(self, number: int, which: int) -> None:
        """A refusal, a bounce, one more token instead of a `Dropped`."""
        self._turn(number, which, kindly=False)

    def _turn(self, number: int, which: int, kindly: bool) -> None:
        fake = self._pick(number)
        if fake is not None and fake.tasks:
            keys = list(fake.tasks)
            self._go_on(fake, keys[which % len(keys)], kindly)

    @rule(times=st.integers(1, 3), except_for=st.integers(0, 3))
    def most_go_on(self, times: int, except_for: int) -> None:
        """All but one answer what they were asked."""
        for _ in range(times):
            for number, name in enumerate(sorted(self.fakes)):
                for which in range(3):
                    if number != except_for and name in self.fakes:
                        self._turn(sorted(self.fakes).index(name), which, kindly=True)

    def _go_on(self, fake: Fake, key: Key, kindly: bool) -> None:
        task = fake.tasks[key]
        if task.dropping and kindly:
            del fake.tasks[key]
            self._say(fake, Dropped(*key), key)
        elif task.decode is not None:
            self._decode(fake, key, task, task.decode, kindly)
        elif task.prefill is not None:
            self._prefill(fake, key, task, task.prefill, kindly)
        elif task.reserved is not None and not task.answered:
            if kindly:
                task.answered = True
                self._say(fake, Reserved(*key))
            else:
                del fake.tasks[key]
                self._say(fake, ReserveRefused(*key, available_blocks=task.reserved - 1))
                if task.dropping:
                    fake.tasks[key] = Task(dropping=True)

    def _prefill(self, fake: Fake, key: Key, task: Task, order: StartPrefill, kindly: bool) -> None:
        if not task.started:
            task.started = True
            self._say(fake, PrefillStarted(*key, cached_tokens=0))
            return
        work = order.work
        self._token(key, work.output_tokens)
        if work.output_tokens + 1 >= work.sampling.max_tokens:
            self._leave(fake, key, Finished(*key, FinishReason.LENGTH))
        elif order.export_lease is not None:
            count = blocks_for(len(work.token_ids), BLOCK_TOKENS)
            start = fake.info.arena.start
            fake.leases[order.export_lease] = tuple(range(start, start + count))
            done = PrefillDone(*key, fake.leases[order.export_lease], len(work.token_ids))
            self._leave(fake, key, done)
        else:
            tokens = (*work.token_ids, 100 + work.output_tokens)
            task.prefill, task.started = None, True
            task.decode = make_grown(work, tokens)
            self._say(fake, DecodeStarted(*key))

    def _decode(self, fake: Fake, key: Key, task: Task, work: Work, kindly: bool) -> None:
        if not kindly and not task.dropping:
            self._leave(fake, key, Bounced(*key, "kv_pressure"))
        elif not task.started and not self._reachable(fake, task.order):
            self._leave(fake, key, Bounced(*key, "fetch_failed"))
        elif not task.started:
            task.started = True
            self._say(fake, DecodeStarted(*key, copied_bytes=10))
        else:
            index = work.output_tokens
            self._token(key, index)
            task.decode = make_grown(work, (*work.token_ids, 100 + index))
            if index + 1 >= work.sampling.max_tokens:
                self._leave(fake, key, Finished(*key, FinishReason.LENGTH))

    def _reachable(self, fake: Fake, order: StartDecode | None) -> bool:
        """Whether the KV is there; whoever lives and owns some of it must hold it under a lease."""
        assert order is not None and (order.source is None) == self._shares(fake, order.source)
        domain = fake.info.domain_id if order.source is None else self._info(order.source).domain_id
        for owner in (it for it in self.fakes.values() if it.info.domain_id == domain):
            leased = {block_id for block_ids in owner.leases.values() for block_id in block_ids}
            assert leased.issuperset([it for it in order.block_ids if it in owner.info.arena])
        return order.source is None or order.source in self.fakes

    def _shares(self, fake: Fake, source: WorkerId | None) -> bool:
        return source is None or self._info(source).domain_id == fake.info.domain_id

    def _info(self, name: WorkerId) -> WorkerInfo:
        return next(info for info in self.infos if info.worker_id == name)

    def _leave(self, fake: Fake, key: Key, event: Bounced | Finished | PrefillDone) -> None:
        """The last word on an attempt, unless an order to drop it is still to be answered."""
        dropping = fake.tasks.pop(key).dropping
        if dropping:
            fake.tasks[key] = Task(dropping=True)
        self._say(fake, event, key)

    @rule(number=st.integers(0, 3), which=st.integers(0, 9), granted=st.integers(0, 4))
    def lend(self, number: int, which: int, granted: int) -> None:
        fake = self._pick(number)
        if fake is not None and fake.asked:
            ids = list(fake.asked)
            self._lend(fake, ids[which % len(ids)], granted)

    def _lend(self, fake: Fake, lease_id: LeaseId, granted: int) -> None:
        hashes = fake.asked.pop(lease_id).hashes[:granted]
        there = tuple(fake.cached[h] for h in hashes if h in fake.cached)
        if there:
            fake.leases[lease_id] = there
        self._say(fake, Leased(lease_id, there))

    @precondition(lambda self: self.requests)
    @rule(number=st.integers(0, 3), which=st.integers(0, 9), cached=st.booleans())
    def news_of_the_cache(self, number: int, which: int, cached: bool) -> None:
        fake = self._pick(number)
        if fake is None:
            return
        hashes = list(self.requests.values())[which % len(self.requests)].block_hashes
        if cached:
            ids = tuple(range(fake.info.arena.start, fake.info.arena.start + len(hashes)))
            fake.cached |= dict(zip(hashes, ids, strict=True))
            self._say(fake, BlocksCached(hashes, ids))
        else:
            for block_hash in hashes:
                fake.cached.pop(block_hash, None)
            self._say(fake, BlocksEvicted(hashes))

    @rule(number=st.integers(0, 3), busy=st.booleans())
    def beat(self, number: int, busy: bool) -> None:
        fake = self._pick(number)
        if fake is not None:
            self.head.beat(fake.name, WorkerStats(free_blocks=12, busy=busy))
            self._carry()

    # ------------------------------------------------------------ the rest of the world

    @precondition(lambda self: len(self.requests) < 12)
    @rule(prompt=st.integers(1, 20), max_tokens=st.integers(1, 6), priority=st.integers(0, 1))
    def arrive(self, prompt: int, max_tokens: int, priority: int) -> None:
        request = make_request(f"r{len(self.requests)}", prompt, max_tokens=max_tokens, priority=priority)
        self.requests[request.request_id] = request
        self.outputs[request.request_id] = []
        self.head.arrive(request)
        self._carry()

    @rule(which=st.integers(0, 11))
    def client_leaves(self, which: int) -> None:
        live = [rid for rid in self.requests if rid not in self.head.reports]
        if live:
            self.gone.add(live[which % len(live)])
            self.head.tell_gone(live[which % len(live)])
            self._carry()

    @rule(which=st.integers(0, 11))
    def stop_string(self, which: int) -> None:
        live = [rid for rid in self.requests if rid not in self.head.reports and self.outputs[rid]]
        if live:
            self.head.tell(StopMatched(RequestId(live[which % len(live)])))
            self._carry()

    @rule(dt_s=st.sampled_from([0.01, 0.1, 0.3, 2.0, 4.0, 6.0, 70.0]))
    def time_passes(self, dt_s: float) -> None:
        self.head.wait(dt_s)
        self._carry()

    @rule(number=st.integers(0, 3), back=st.booleans())
    def lose(self, number: int, back: bool) -> None:
        fake = self._pick(number)
        if fake is not None:
            self._lose(fake.name)
            if back:
                self.come_back(number)

    @rule(number=st.integers(0, 3))
    def come_back(self, number: int) -> None:
        for info in self.infos[number % len(self.infos) :]:
            if info.worker_id not in self.fakes:
                self._join(info)

    # ------------------------------------------------------------ what must hold

    @invariant()
    def sound(self) -> None:
        if hasattr(self, "head"):
            self.head.core.check()
            live = len(self.requests) - len(self.head.reports)
            assert sum(self.head.core.snapshot().requests.values()) == live

    @invariant()
    def one_computes_at_a_time(self) -> None:
        """Two attempts of a request that both may send tokens would send some twice."""
        if not hasattr(self, "head"):
            return
        running: dict[RequestId, set[int]] = {}
        for fake in self.fakes.values():
            for (rid, attempt), task in fake.tasks.items():
                if task.prefill is not None or task.decode is not None:
                    running.setdefault(rid, set()).add(attempt)
        assert all(len(attempts) == 1 for rid, attempts in running.items() if rid not in self.head.reports)

    def teardown(self) -> None:
        """Everyone comes back and is kind: all that is left must end, and nothing may be left behind."""
        if not hasattr(self, "head"):
            return
        for _ in range(300):
            if not self._kind_round():
                break
        assert set(self.head.reports) == set(self.requests)
        assert self.head.core.snapshot().idle
        assert not any(fake.tasks or fake.asked or fake.leases for fake in self.fakes.values())
        for rid, report in self.head.reports.items():
            self._check_report(rid, report.state, report.finish_reason)

    def _kind_round(self) -> bool:
        """Whether anything was left to do."""
        for info in self.infos:
            if info.worker_id not in self.fakes:
                self._join(info)
        for name in sorted(self.fakes):
            fake = self.fakes[name]
            for lease_id in list(fake.asked):
                self._lend(fake, lease_id, 99)
            for key in list(fake.tasks):
                if key in fake.tasks:
                    self._go_on(fake, key, kindly=True)
            self.head.beat(name, WorkerStats(free_blocks=12))
            self._carry()
        self.head.wait(0.3)
        self._carry()
        tasks = any(fake.tasks or fake.asked for fake in self.fakes.values())
        return tasks or not self.head.core.snapshot().idle

    def _check_report(self, rid: str, state: State, reason: FinishReason | None) -> None:
        output, most = self.outputs[rid], self.requests[rid].sampling.max_tokens
        assert state in ENDS and (state is not State.ABORTED or rid in self.gone)
        assert output == [100 + index for index in range(len(output))] and len(output) <= most
        if state is State.FINISHED and reason is FinishReason.LENGTH:
            assert len(output) == most


def make_grown(work: Work, tokens: tuple[int, ...]) -> Work:
    """The same work with more tokens."""
    return msgspec.structs.replace(work, token_ids=tokens)


TestAnyAnswers = AnyAnswers.TestCase
TestAnyAnswers.settings = settings(max_examples=120, stateful_step_count=60)


def name_of(topology: Topology) -> str:
    """For the names of tests."""
    return "".join(f"{role.value[0]}{domain}" for role, domain in topology)


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=name_of)
def test_long_conversations(topology: Topology) -> None:
    """The same rules by dice: longer, and busier."""
    for seed in range(25):
        _converse(AnyAnswers(), topology, random.Random(f"{name_of(topology)} {seed}"))


def _converse(machine: AnyAnswers, topology: Topology, dice: random.Random) -> None:
    machine.build(topology, losses=100)
    trouble = dice.choice([0, 1, 3])
    weights = {"go_on": 30, "arrive": 6, "beat": 4, "lend": 6, "time": 2, "cache": 3, "come_back": 3}
    weights |= {"disappoint": 2 * trouble, "lose": trouble, "leave": trouble, "stop": trouble}
    for move in dice.choices(list(weights), list(weights.values()), k=200):
        number, which = dice.randrange(4), dice.randrange(10)
        match move:
            case "go_on":
                machine.go_on([(number, which)])
            case "disappoint":
                machine.disappoint(number, which)
            case "arrive" if len(machine.requests) < 15:
                machine.arrive(dice.randint(1, 20), dice.randint(1, 6), dice.randint(0, 1))
            case "beat":
                machine.beat(number, dice.random() < 0.5)
            case "lend":
                machine.lend(number, which, dice.randint(0, 4))
            case "time":
                machine.time_passes(dice.choice([0.01, 0.1, 0.3, 2.0]))
            case "cache" if machine.requests:
                machine.news_of_the_cache(number, which, dice.random() < 0.7)
            case "lose":
                machine.lose(number, back=dice.random() < 0.5)
            case "come_back":
                machine.come_back(number)
            case "leave":
                machine.client_leaves(which)
            case "stop":
                machine.stop_string(which)
        machine.sound()
        machine.one_computes_at_a_time()
    machine.teardown()
