"""Real processes: nothing is lost and nothing leaks, whoever dies whenever."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from diptych.adapters.toy import ToyEngine
from diptych.domain.cluster import ClusterSpec
from diptych.domain.errors import SpecError
from diptych.domain.ids import RequestId, WorkerId
from diptych.domain.lifecycle import State
from diptych.runtime import incarnation
from diptych.runtime.cluster import Cluster
from diptych.runtime.supervisor import StartupError
from support.toy_cluster import (
    VOCAB,
    Client,
    assert_all_answered,
    assert_settled,
    in_state,
    many_requests,
    send_all,
    send_signal,
    toy_request,
    toy_spec,
    until,
)

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

IN_FLIGHT = 32
P, D = "prefill-0", "decode-0"
SLOW_PREFILL = ToyEngine(vocab_size=VOCAB, prefill_s_per_token=0.001)
SLOW_DECODE = ToyEngine(vocab_size=VOCAB, decode_s_per_step=0.01)
FAST = ToyEngine(vocab_size=VOCAB)


Body = Callable[..., Coroutine[Any, Any, None]]

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def on_both_loops(body: Body) -> Callable[..., None]:
    """Run a test on asyncio's own loop and on the one that `serve` uses: they order timers, sockets and child
    processes differently."""

    @functools.wraps(body)
    def on_loop(loop_name: str, **arguments: object) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
            runner.run(body(**arguments))

    parameters = list(inspect.signature(body).parameters.values())
    name = inspect.Parameter("loop_name", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    setattr(on_loop, "__signature__", inspect.Signature([name, *parameters]))  # noqa: B010 - read by pytest
    return pytest.mark.parametrize("loop_name", LOOPS)(on_loop)


@asynccontextmanager
async def running(spec: ClusterSpec, engine: ToyEngine = FAST) -> AsyncIterator[Cluster]:
    """A cluster; afterwards none of its processes is left."""
    async with Cluster(spec, engine=engine) as cluster:
        yield cluster
        pids = [pid for pid in _pids(cluster) if pid is not None]
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@on_both_loops
@pytest.mark.parametrize("workers", [(1, 1, 0), (2, 2, 0), (0, 0, 1), (1, 0, 1)], ids=str)
async def test_every_topology_gives_the_tokens_of_the_reference(workers: tuple[int, int, int]) -> None:
    async with running(toy_spec(*workers)) as cluster:
        assert cluster.frontend.ready()
        await assert_all_answered(send_all(cluster, many_requests(IN_FLIGHT, max_tokens=9)))
        await assert_settled(cluster)
        assert set(cluster.restart_counts.values()) == {0}
        assert cluster.driver.requests.dropped_tokens == 0


async def test_a_second_turn_finds_what_decode_wrote() -> None:
    async with running(toy_spec()) as cluster:
        first = Client(cluster, toy_request("first", tuple(range(10, 30)), max_tokens=12))
        await first.end()
        turn = (*first.request.prompt_token_ids, *first.token_ids)
        second = Client(cluster, toy_request("second", turn, max_tokens=4))
        report = await second.end()
        await assert_all_answered([second])
        assert report.cached_tokens == 28  # of 32 tokens 31 were computed: 7 full blocks
        assert cluster.report(RequestId("second")) == report
        await assert_settled(cluster)


@pytest.mark.parametrize("victim", [P, D])
async def test_a_worker_killed_while_requests_prefill(victim: str) -> None:
    async with running(toy_spec(), SLOW_PREFILL) as cluster:
        clients = send_all(cluster, many_requests(IN_FLIGHT, max_tokens=6))
        await until(lambda: in_state(cluster, State.PREFILLING) > 0, "prefilling")
        send_signal(cluster, victim, signal.SIGKILL)
        await assert_recovered(cluster, clients, victim)


@pytest.mark.parametrize("victim", [P, D])
async def test_a_worker_killed_while_requests_are_handed_off(victim: str) -> None:
    async with running(toy_spec(), SLOW_PREFILL) as cluster:
        clients = send_all(cluster, many_requests(IN_FLIGHT, max_tokens=6))
        await until(lambda: in_state(cluster, State.PREFILLING) > 0, "prefilling")
        send_signal(cluster, D, signal.SIGSTOP)
        await until(lambda: in_state(cluster, State.HANDING_OFF) > 0, "handing off")
        send_signal(cluster, victim, signal.SIGKILL)
        if victim != D:
            send_signal(cluster, D, signal.SIGCONT)
        await assert_recovered(cluster, clients, victim)


@pytest.mark.parametrize("victim", [P, D])
async def test_a_worker_killed_while_requests_decode(victim: str) -> None:
    async with running(toy_spec(), SLOW_DECODE) as cluster:
        clients = send_all(cluster, many_requests(IN_FLIGHT, max_tokens=20))
        await until(lambda: all(len(client.tokens) >= 3 for client in clients), "all decode")
        send_signal(cluster, victim, signal.SIGKILL)
        await assert_recovered(cluster, clients, victim)
        losses = [len(client.reports[0].placements) - 1 for client in clients]
        assert set(losses) == ({1} if victim == D else {0}), "decodes that only borrow go on undisturbed"


async def test_an_owner_that_came_back_leaves_lent_blocks_alone() -> None:
    """Its new life starts with an empty cache; what the old one lent is still being read by decode."""
    async with running(toy_spec(), SLOW_DECODE) as cluster:
        clients = send_all(cluster, many_requests(IN_FLIGHT, max_tokens=120))
        await until(lambda: all(len(client.tokens) >= 3 for client in clients), "all decode")
        send_signal(cluster, P, signal.SIGKILL)
        await until(lambda: cluster.restart_counts[WorkerId(P)] == 1 and _up(cluster, P), "prefill is back")
        later = send_all(cluster, many_requests(IN_FLIGHT, max_tokens=3, name="later"))
        await assert_all_answered(later)
        assert cluster.restart_counts[WorkerId(D)] == 0
        assert not any(client.reports for client in clients), "they were to run meanwhile"
        await assert_all_answered(clients)
        await assert_settled(cluster)


def _pids(cluster: Cluster) -> list[int | None]:
    return [place.pid for place in cluster.topology().workers]


def _up(cluster: Cluster, worker: str) -> bool:
    return any(seen.worker_id == worker and seen.up for seen in cluster.snapshot().workers)


async def assert_recovered(cluster: Cluster, clients: list[Client], victim: str) -> None:
    """All answers are right, the victim is back, nothing is held, and the whole cluster works as before."""
    await assert_all_answered(clients)
    await assert_settled(cluster)
    assert cluster.restart_counts[WorkerId(victim)] == 1
    later = send_all(cluster, many_requests(4, max_tokens=5, name="later"))
    await assert_all_answered(later)
    assert {client.reports[0].placements[-1].prefill_worker for client in later} == {P}
    await assert_settled(cluster)


@on_both_loops
async def test_workers_that_die_again_and_again_lose_nothing() -> None:
    async with running(toy_spec(2, 2, max_losses=100), SLOW_DECODE) as cluster:
        clients = send_all(cluster, many_requests(IN_FLIGHT, max_tokens=20))
        for victim in ("prefill-0", "decode-1", "decode-0", "prefill-1"):
            had = sum(len(client.tokens) for client in clients)
            await until(lambda had=had: sum(len(client.tokens) for client in clients) > had + 40, "progress")
            send_signal(cluster, victim, signal.SIGKILL)
        await assert_all_answered(clients)
        await assert_settled(cluster)
        assert cluster.restart_counts == dict.fromkeys(cluster.restart_counts, 1)


async def test_the_only_worker_killed_comes_back_and_finishes_everything() -> None:
    async with running(toy_spec(0, 0, 1), SLOW_DECODE) as cluster:
        clients = send_all(cluster, many_requests(8, max_tokens=20))
        await until(lambda: all(len(client.tokens) >= 3 for client in clients), "all decode")
        send_signal(cluster, "mixed-0", signal.SIGKILL)
        await until(lambda: not cluster.frontend.ready(), "not ready while nobody is there")
        await assert_all_answered(clients)
        await until(cluster.frontend.ready, "ready after a new probe")
        await assert_settled(cluster)


async def test_a_worker_that_hangs_is_ended_and_replaced() -> None:
    spec = toy_spec(heartbeat_timeout_s=1.0)
    async with running(spec, SLOW_DECODE) as cluster:
        clients = send_all(cluster, many_requests(IN_FLIGHT, max_tokens=20))
        await until(lambda: all(len(client.tokens) >= 3 for client in clients), "all decode")
        send_signal(cluster, D, signal.SIGSTOP)
        await assert_all_answered(clients)
        await assert_settled(cluster)
        assert cluster.restart_counts[WorkerId(D)] == 1
        ended = {place.worker_id: place.last_end for place in cluster.topology().workers}
        assert "silent" in str(ended[WorkerId(D)])


@on_both_loops
async def test_a_head_that_stood_still_does_not_blame_its_workers() -> None:
    async with running(toy_spec(heartbeat_timeout_s=1.0), SLOW_DECODE) as cluster:
        before = _pids(cluster)
        clients = send_all(cluster, many_requests(8, max_tokens=20))
        await until(lambda: all(client.tokens for client in clients), "tokens")
        time.sleep(1.5)  # the event loop hears nothing for longer than any worker may be silent
        await assert_all_answered(clients)
        await assert_settled(cluster)
        assert _pids(cluster) == before


async def test_a_request_that_kills_workers_fails_alone() -> None:
    engine = ToyEngine(vocab_size=VOCAB, decode_s_per_step=0.005, poison_token_id=VOCAB + 1)
    async with running(toy_spec(max_losses=1), engine) as cluster:
        poisoned = Client(cluster, toy_request("poisoned", (1, 2, VOCAB + 1), max_tokens=3))
        report = await poisoned.end()
        assert (report.state, report.error_code) == (State.FAILED, "worker_lost")
        assert len(report.placements) == 2
        await assert_all_answered(send_all(cluster, many_requests(4, max_tokens=5)))
        await assert_settled(cluster)


@pytest.mark.parametrize("state", [State.PREFILLING, State.HANDING_OFF, State.DECODING])
async def test_clients_that_leave_free_everything(state: State) -> None:
    engine = SLOW_DECODE if state is State.DECODING else SLOW_PREFILL
    async with running(toy_spec(), engine) as cluster:
        clients = send_all(cluster, many_requests(IN_FLIGHT, max_tokens=12))
        if state is State.HANDING_OFF:
            await until(lambda: in_state(cluster, State.PREFILLING) > 0, "prefilling")
            send_signal(cluster, D, signal.SIGSTOP)
        await until(lambda: in_state(cluster, state) > 0, state.value)
        for client in clients[::2]:
            client.abort()
        send_signal(cluster, D, signal.SIGCONT)
        ends = [await client.end() for client in clients[::2]]
        assert State.ABORTED in {report.state for report in ends}
        assert {report.state for report in ends} <= {State.ABORTED, State.FINISHED}
        await assert_all_answered(clients[1::2])
        await assert_settled(cluster)


async def test_a_stop_string_ends_a_request_as_finished() -> None:
    async with running(toy_spec(), SLOW_DECODE) as cluster:
        client = Client(cluster, toy_request("r", tuple(range(8)), max_tokens=2000))
        await until(lambda: len(client.tokens) >= 5, "tokens")
        cluster.frontend.stop(client.request.request_id)
        report = await client.end()
        assert (report.state, str(report.finish_reason)) == (State.FINISHED, "stop")
        await assert_settled(cluster)


async def test_scarce_memory_delays_requests_but_loses_none() -> None:
    async with running(toy_spec(blocks_each=24)) as cluster:
        await assert_all_answered(send_all(cluster, many_requests(IN_FLIGHT, max_tokens=16)))
        await assert_settled(cluster)


async def test_strangers_on_the_socket_disturb_nobody() -> None:
    async with running(toy_spec(), SLOW_DECODE) as cluster:
        clients = send_all(cluster, many_requests(8, max_tokens=20))
        assert stat.S_IMODE(cluster.socket_path.parent.stat().st_mode) == 0o700
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x02\x00\x00\x00\xc1\xc1", b"\xff" * 4096):
            reader, writer = await asyncio.open_unix_connection(str(cluster.socket_path))
            writer.write(data)
            await reader.read()
            writer.close()
        await assert_all_answered(clients)
        assert set(cluster.restart_counts.values()) == {0}


async def test_the_close_answers_whoever_still_waits() -> None:
    async with running(toy_spec(), SLOW_DECODE) as cluster:
        clients = send_all(cluster, many_requests(4, max_tokens=2000))
        await until(lambda: all(client.tokens for client in clients), "tokens")
        assert not await cluster.drain(0.05)
        await cluster.close()
        assert {(await client.end()).state for client in clients} == {State.FAILED}


async def test_a_wrong_model_directory_is_a_start_up_error_at_once() -> None:
    engine = ToyEngine(
        vocab_size=VOCAB, startup_error="model.safetensors lacks lm_head.weight; fetch it again"
    )
    with pytest.raises(SpecError, match=r"lacks lm_head\.weight; fetch it again"):
        async with Cluster(toy_spec(), engine=engine):
            pass


async def test_a_first_request_that_fails_is_a_start_up_error() -> None:
    engine = ToyEngine(vocab_size=VOCAB, poison_token_id=0)  # the probe's first token
    with pytest.raises(StartupError, match="worker_lost"):
        async with Cluster(toy_spec(max_losses=0), engine=engine):
            pass


@on_both_loops
async def test_a_worker_that_never_starts_shows_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["/bin/sh", "-c", "echo no such library; exit 3"]
    monkeypatch.setattr(incarnation.Incarnation, "_argv", lambda self: command)
    with pytest.raises(StartupError, match=r"(?s)3 attempts: exited with status 3.*no such library"):
        async with Cluster(toy_spec(), engine=FAST):
            pass


HEAD = """
import asyncio
from diptych.adapters.toy import ToyEngine
from diptych.runtime.cluster import Cluster
from support.toy_cluster import toy_spec

async def main() -> None:
    async with Cluster(toy_spec(), engine=ToyEngine()) as cluster:
        print(*(place.pid for place in cluster.topology().workers), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_workers_die_with_their_head() -> None:
    tests = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {"PYTHONPATH": tests}
    head = subprocess.Popen([sys.executable, "-c", HEAD], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert head.stdout is not None
        line = await asyncio.to_thread(head.stdout.readline)
        pids = [int(word) for word in line.split()]
        assert len(pids) == 2
    finally:
        head.kill()
        head.wait()
        if head.stdout is not None:
            head.stdout.close()
    await until(lambda: not any(_lives(pid) for pid in pids), "workers ended with their head")


def _lives(pid: int) -> bool:
    """Whether the process runs (a zombie that nobody has reaped does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
