"""Any schedule, any losses: every request ends once, with exactly its tokens, and nothing is left behind.

The real orchestrator and the real schedulers, wired by queues whose messages are delivered in any order that
sockets allow; arenas so small that prompts wait, decodes bounce and cached blocks are evicted all the time.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from diptych.domain.cluster import LimitsSpec
from diptych.domain.ids import WorkerId
from diptych.domain.lifecycle import State
from diptych.domain.report import HandoffKind
from diptych.domain.worker import Role
from support.virtual_cluster import Shape, VirtualCluster

P, D, M = Role.PREFILL, Role.DECODE, Role.MIXED

Topology = tuple[tuple[Role, str], ...]

TOPOLOGIES: tuple[Topology, ...] = (
    ((P, "a"), (D, "a")),
    ((P, "a"), (P, "a"), (D, "a"), (D, "a")),
    ((M, "a"),),
    ((M, "a"), (M, "a")),
    ((P, "a"), (D, "a"), (M, "a")),
    ((P, "a"), (P, "a"), (D, "a")),
    ((P, "a"), (D, "a"), (D, "a")),
    ((P, "a"), (D, "b")),
    ((P, "a"), (P, "b"), (D, "c"), (D, "d")),
    ((P, "a"), (D, "a"), (P, "b"), (D, "b")),
    ((P, "a"), (P, "a"), (D, "b"), (M, "b")),
)
"""Roles and memory domains."""

PREFIXES = (tuple(range(20, 32)), tuple(range(50, 62)))
"""Prompts share leading parts of these, so that blocks are found, lent and pinned."""

MOST_PROMPT_TOKENS = 16
MOST_OUTPUT_TOKENS = 12
LEAST_BLOCKS = 8
"""Of 4 tokens each: one more than the longest request needs, so that any empty worker can take any."""


def patient(**changes: float) -> LimitsSpec:
    """Limits under which nothing may fail: only cancelled requests end otherwise than finished."""
    patience: dict[str, float] = {"queue_timeout_s": 1e6, "no_worker_timeout_s": 1e6, "max_losses": 1000}
    timeouts = {"stall_timeout_s": 20.0, "placing_timeout_s": 3.0, "handoff_timeout_s": 8.0}
    return LimitsSpec.model_validate(patience | timeouts | changes)


def check_end(cluster: VirtualCluster) -> None:
    """Everything came to its proper end."""
    cluster.settle()
    cluster.check_end()
    for client in cluster.clients.values():
        assert client.report is not None
        ends = {State.FINISHED, State.ABORTED} if client.cancelled else {State.FINISHED}
        assert client.report.state in ends, client.report


class AnySchedule(RuleBasedStateMachine):
    """Each rule delivers one message, runs one half of a step, or breaks something."""

    @initialize(data=st.data())
    def build(self, data: st.DataObject) -> None:
        topology = data.draw(st.sampled_from(TOPOLOGIES), "topology")
        shapes = [
            Shape(
                role,
                blocks=data.draw(st.integers(LEAST_BLOCKS, 14), "blocks"),
                token_budget=data.draw(st.sampled_from([3, 8, 16]), "token budget"),
                max_running=data.draw(st.integers(1, 4), "max running"),
                domain=domain,
            )
            for role, domain in topology
        ]
        limits = patient(
            prefill_backlog_tokens=data.draw(st.sampled_from([1, 10, 40]), "backlog"),
            output_reserve_tokens=data.draw(st.sampled_from([1, 4, 16]), "reserve"),
        )
        self.cluster = VirtualCluster(shapes, limits, stop_probability=0.1)
        self.cluster.start_all()

    def _worker(self, number: int) -> WorkerId:
        ids = self.cluster.worker_ids
        return ids[number % len(ids)]

    @precondition(lambda self: len(self.cluster.clients) < 10)
    @rule(
        prefix=st.sampled_from(PREFIXES),
        shared=st.integers(0, 12),
        rest=st.lists(st.integers(0, 9), min_size=1, max_size=4),
        max_tokens=st.integers(1, MOST_OUTPUT_TOKENS),
        priority=st.integers(0, 1),
        may_stop=st.booleans(),
    )
    def submit(
        self,
        prefix: tuple[int, ...],
        shared: int,
        rest: list[int],
        max_tokens: int,
        priority: int,
        may_stop: bool,
    ) -> None:
        self.cluster.submit((*prefix[:shared], *rest), max_tokens, priority, may_stop)

    @rule(number=st.integers(0, 3), times=st.integers(1, 4))
    def obey(self, number: int, times: int) -> None:
        for _ in range(times):
            self.cluster.obey(self._worker(number))

    @rule(number=st.integers(0, 3), fails=st.sampled_from([False, False, True]))
    def fetch(self, number: int, fails: bool) -> None:
        self.cluster.fetch(self._worker(number), fails)

    @rule(number=st.integers(0, 3))
    def start_step(self, number: int) -> None:
        self.cluster.start_step(self._worker(number))

    @rule(number=st.integers(0, 3))
    def end_step(self, number: int) -> None:
        self.cluster.end_step(self._worker(number))

    @rule(number=st.integers(0, 3), times=st.integers(1, 4))
    def deliver(self, number: int, times: int) -> None:
        for _ in range(times):
            self.cluster.deliver(self._worker(number))

    @rule(number=st.integers(0, 3))
    def work(self, number: int) -> None:
        """A worker goes through whole steps undisturbed."""
        worker_id = self._worker(number)
        for _ in range(3):
            while self.cluster.obey(worker_id):
                pass
            while self.cluster.fetch(worker_id):
                pass
            self.cluster.start_step(worker_id)
            self.cluster.end_step(worker_id)
            while self.cluster.deliver(worker_id):
                pass

    @rule(number=st.integers(0, 3))
    def beat(self, number: int) -> None:
        self.cluster.beat(self._worker(number))

    @rule(dt_s=st.sampled_from([0.001, 0.1, 1.0, 3.0, 6.0]))
    def pass_time(self, dt_s: float) -> None:
        self.cluster.pass_time(dt_s)

    @rule(number=st.integers(0, 9))
    def cancel(self, number: int) -> None:
        live = self.cluster.live_requests()
        if live:
            self.cluster.cancel(live[number % len(live)])

    @rule(number=st.integers(0, 9))
    def stop(self, number: int) -> None:
        talking = [name for name in self.cluster.live_requests() if self.cluster.clients[name].tokens]
        if talking:
            self.cluster.stop(talking[number % len(talking)])

    @rule(number=st.integers(0, 3), unsent=st.integers(0, 3))
    def kill(self, number: int, unsent: int) -> None:
        self.cluster.kill(self._worker(number), unsent)

    @rule(number=st.integers(0, 3))
    def hang(self, number: int) -> None:
        self.cluster.hang(self._worker(number))

    @rule(number=st.integers(0, 3), deaf=st.booleans())
    def deafen(self, number: int, deaf: bool) -> None:
        self.cluster.deafen(self._worker(number), deaf)

    @rule(number=st.integers(0, 3))
    def spawn(self, number: int) -> None:
        self.cluster.spawn(self._worker(number))

    @rule(number=st.integers(0, 3))
    def join(self, number: int) -> None:
        self.cluster.join(self._worker(number))

    @invariant()
    def sound(self) -> None:
        if hasattr(self, "cluster"):
            self.cluster.check()

    def teardown(self) -> None:
        if hasattr(self, "cluster"):
            check_end(self.cluster)


TestAnySchedule = AnySchedule.TestCase
TestAnySchedule.settings = settings(max_examples=60, stateful_step_count=60)


def name_of(topology: Topology) -> str:
    """For the names of tests."""
    return "".join(f"{role.value[0]}{domain}" for role, domain in topology)


@pytest.mark.parametrize("trouble", ["none", "some", "much"])
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=name_of)
def test_long_schedules(topology: Topology, trouble: str) -> None:
    """The same with dice instead of a search: longer, and busier."""
    for seed in range(8):
        _roll(
            random.Random(f"{name_of(topology)} {trouble} {seed}"),
            topology,
            {"none": 0.0, "some": 1.0, "much": 4.0}[trouble],
        )


def _roll(dice: random.Random, topology: Topology, trouble: float) -> None:
    shapes = [
        Shape(role, dice.randint(LEAST_BLOCKS, 14), dice.choice([3, 8, 16]), dice.randint(1, 4), domain)
        for role, domain in topology
    ]
    limits = patient(
        prefill_backlog_tokens=dice.choice([1, 10, 40]), output_reserve_tokens=dice.choice([1, 4, 16])
    )
    cluster = VirtualCluster(shapes, limits, stop_probability=0.1)
    cluster.start_all()
    moves = {
        "submit": 6.0,
        "obey": 24.0,
        "start_step": 15.0,
        "end_step": 15.0,
        "fetch": 12.0,
        "deliver": 25.0,
        "beat": 5.0,
        "pass_time": 4.0,
        "cancel": trouble,
        "stop": trouble,
        "kill": trouble,
        "hang": trouble / 2,
        "deafen": trouble,
        "spawn": 2.0,
        "join": 2.0,
    }
    for move in dice.choices(list(moves), list(moves.values()), k=200):
        _move(cluster, dice, move)
        cluster.check()
    check_end(cluster)


def _move(cluster: VirtualCluster, dice: random.Random, move: str) -> None:
    worker_id = dice.choice(cluster.worker_ids)
    live = cluster.live_requests()
    match move:
        case "submit" if len(cluster.clients) < 14:
            prompt = (
                *dice.choice(PREFIXES)[: dice.randint(0, 12)],
                *dice.choices(range(10), k=dice.randint(1, 4)),
            )
            cluster.submit(
                prompt, dice.randint(1, MOST_OUTPUT_TOKENS), dice.randint(0, 1), dice.random() < 0.5
            )
        case "pass_time":
            cluster.pass_time(dice.choice([0.001, 0.01, 0.01, 0.1, 1.0, 3.0]))
        case "cancel" if live:
            cluster.cancel(dice.choice(live))
        case "stop" if talking := [name for name in live if cluster.clients[name].tokens]:
            cluster.stop(dice.choice(talking))
        case "deafen":
            cluster.deafen(worker_id, dice.random() < 0.6)
        case "kill":
            cluster.kill(worker_id, unsent=dice.randint(0, 3))
        case "fetch":
            cluster.fetch(worker_id, fails=dice.random() < 0.1)
        case "obey" | "start_step" | "end_step" | "deliver" | "beat" | "hang" | "spawn" | "join":
            getattr(cluster, move)(worker_id)


@pytest.mark.parametrize("domains", ["aaa", "abc"])
def test_the_machinery_is_really_used(domains: str) -> None:
    """The schedules above would prove little if they never met a loss, a lease, a bounce or a fetch."""
    dice = random.Random(1)
    attempts = losses = cached_tokens = streamed = 0
    moves = {"submit": 4, "obey": 9, "fetch": 4, "start_step": 9, "end_step": 9, "deliver": 9, "kill": 1}
    for _ in range(8):
        shapes = [
            Shape(role, LEAST_BLOCKS, domain=domain) for role, domain in zip((P, D, D), domains, strict=True)
        ]
        cluster = VirtualCluster(shapes, patient())
        cluster.start_all()
        for move in dice.choices(list(moves), list(moves.values()), k=150):
            _move(cluster, dice, move)
        check_end(cluster)
        losses += cluster.losses
        reports = [client.report for client in cluster.clients.values() if client.report]
        attempts += sum(len(report.placements) for report in reports) - len(reports)
        cached_tokens += sum(report.cached_tokens for report in reports)
        streamed += sum(report.handoff.kind is HandoffKind.STREAM for report in reports)
    assert losses > 10 and attempts > 15 and cached_tokens > 50
    assert (streamed > 15) == (domains == "abc")
