"""Real worker processes with the toy engine, and clients that know what must come out.

Knows: requests, expected tokens, waiting for a condition, signals to the cluster's own children. Does not
know: what is being tested.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

from diptych.adapters.toy import toy_next_token
from diptych.domain.cluster import ClusterSpec, KVSpec, LimitsSpec, PoolSpec
from diptych.domain.ids import RequestId, WorkerId
from diptych.domain.kv import extend_hashes, hash_root
from diptych.domain.lifecycle import State
from diptych.domain.report import RequestReport
from diptych.domain.request import Request, SamplingParams, TokenOut
from diptych.domain.worker import Role
from diptych.runtime.cluster import Cluster

BLOCK_TOKENS = 4
VOCAB = 1000
DEADLINE_S = 30.0
"""Far more than anything here takes; only a test that fails waits so long."""

ROOT = hash_root("toy", "")


def toy_spec(
    prefill: int = 1,
    decode: int = 1,
    mixed: int = 0,
    blocks_each: int = 2048,
    budget: int = 64,
    **limits: float,
) -> ClusterSpec:
    """A small cluster that restarts fast and is patient with slow machines unless told otherwise."""
    counts = {Role.PREFILL: prefill, Role.DECODE: decode, Role.MIXED: mixed}
    pools = tuple(
        PoolSpec(name=role.value, role=role, workers=count, token_budget=64)
        for role, count in counts.items()
        if count
    )
    memory_bytes = sum(counts.values()) * blocks_each * 2 * BLOCK_TOKENS * 8
    settings = {"heartbeat_interval_s": 0.1, "heartbeat_timeout_s": 20.0, "restart_backoff_s": 0.05} | limits
    return ClusterSpec(
        pools=pools,
        kv=KVSpec(block_tokens=BLOCK_TOKENS, memory_bytes=memory_bytes),
        limits=LimitsSpec.model_validate(settings),
    )


def toy_request(name: str, prompt: tuple[int, ...], max_tokens: int, temperature: float = 0.0) -> Request:
    """A request of the one tenant of these tests."""
    return Request(
        request_id=RequestId(name),
        prompt_token_ids=prompt,
        cache_root=ROOT,
        block_hashes=extend_hashes(ROOT, prompt, BLOCK_TOKENS),
        sampling=SamplingParams(max_tokens=max_tokens, seed=7, temperature=temperature),
    )


def many_requests(count: int, max_tokens: int, name: str = "r") -> list[Request]:
    """Prompts of different lengths. Every other one begins alike, so that workers share blocks."""
    return [
        toy_request(f"{name}{number}", _prompt(number), max_tokens, temperature=float(number % 3 == 0))
        for number in range(count)
    ]


def _prompt(number: int) -> tuple[int, ...]:
    shared = tuple(range(100, 114)) if number % 2 else ()
    own = tuple(200 + (number * 7 + i) % 500 for i in range(5 + number % 11))
    return shared + own


def expected_tokens(request: Request) -> list[int]:
    """What the toy must answer, computed without KV."""
    history = list(request.prompt_token_ids)
    for _ in range(request.sampling.max_tokens):
        history.append(toy_next_token(tuple(history), request.sampling, len(request.prompt_token_ids), VOCAB))
    return history[len(request.prompt_token_ids) :]


class Client:
    """Sends one request and collects what comes back."""

    def __init__(self, cluster: Cluster, request: Request) -> None:
        self.request = request
        self.tokens: list[TokenOut] = []
        self.reports: list[RequestReport] = []
        self._cluster = cluster
        self._stream = cluster.frontend.submit(request, cluster.frontend.now_s())
        self._task = asyncio.create_task(self._collect())

    @property
    def token_ids(self) -> list[int]:
        return [token.token_id for token in self.tokens]

    def abort(self) -> None:
        self._cluster.frontend.abort(self.request.request_id)

    async def end(self) -> RequestReport:
        """Its report; at most `DEADLINE_S` away."""
        await asyncio.wait_for(self._task, DEADLINE_S)
        (report,) = self.reports
        return report

    async def _collect(self) -> None:
        while not self.reports:
            for item in await self._stream.next_batch():
                if isinstance(item, RequestReport):
                    self.reports.append(item)
                elif isinstance(item, TokenOut):
                    assert not self.reports, "a token after the report"
                    self.tokens.append(item)


def send_all(cluster: Cluster, requests: list[Request]) -> list[Client]:
    """All at once."""
    return [Client(cluster, request) for request in requests]


async def assert_all_answered(clients: list[Client]) -> None:
    """Every one finished, with exactly the reference's tokens, each once and in order."""
    for client in clients:
        report = await client.end()
        assert report.state is State.FINISHED, report
        assert client.token_ids == expected_tokens(client.request), report
        assert [token.index for token in client.tokens] == list(range(len(client.tokens)))


async def until(condition: Callable[[], bool], what: str) -> None:
    """Poll until ``condition`` holds."""
    deadline_s = asyncio.get_running_loop().time() + DEADLINE_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline_s, f"never: {what}"
        await asyncio.sleep(0.002)


def in_state(cluster: Cluster, state: State) -> int:
    """Live requests in this state."""
    return cluster.orchestration().requests.get(state, 0)


async def assert_settled(cluster: Cluster) -> None:
    """All workers are back, and nothing is held anywhere: no block, lease, reservation, attempt, request."""

    def settled() -> bool:
        workers = cluster.snapshot().workers
        idle = all(
            worker.up
            and (worker.stats.held_blocks, worker.stats.leases, worker.stats.reserved_blocks) == (0, 0, 0)
            and (worker.stats.waiting, worker.stats.running, worker.stats.busy) == (0, 0, False)
            and worker.stats.free_blocks + worker.stats.cached_blocks == worker.arena_blocks
            for worker in workers
        )
        return idle and cluster.orchestration().idle and not len(cluster.driver.requests)

    try:
        await until(settled, "settled")
    except AssertionError:
        raise AssertionError(f"{cluster.snapshot()}\n{cluster.orchestration()}") from None


def send_signal(cluster: Cluster, worker: str, number: signal.Signals) -> int:
    """Signal one of the cluster's own children; its pid."""
    pid = cluster.pid(WorkerId(worker))
    assert pid is not None, f"{worker} does not run"
    os.kill(pid, number)
    return pid
