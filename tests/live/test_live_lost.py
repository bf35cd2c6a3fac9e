"""The real engine over HTTP: no worker is left and none comes back in time. Everyone is told so, once; and
when workers can start again, all is as before."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.served import Served, serve
from benchmarks.volley import Answer, Refusal
from benchmarks.watch import until

from support.live_stage import ASKS, SETTINGS, D, P, Stage, stage_of, undisturbed

pytest.importorskip("torch", reason="the built-in engine needs the engine extra")
pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def own_model_dir(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that this test can take away: then no worker can start again."""
    return Path(shutil.copytree(model_dir, tmp_path_factory.mktemp("own") / "tales"))


@pytest.fixture(scope="module")
def served(own_model_dir: Path) -> Iterator[Served]:
    """Patient with silence, not with absence."""
    limits = ("--set", "limits.no_worker_timeout_s=1", "--set", "limits.heartbeat_timeout_s=120")
    with serve(str(own_model_dir), *SETTINGS, *limits) as served:
        yield served


@pytest.fixture(scope="module")
def expected(served: Served) -> dict[int, Answer]:
    """Answers without any fault."""
    return asyncio.run(undisturbed(served.url))


async def test_no_worker_is_left(served: Served, expected: dict[int, Answer], own_model_dir: Path) -> None:
    async with stage_of(served, expected) as stage:
        before = await stage.watch.outcomes()
        volley = await stage.decoding(D)
        await stage.freeze(P)
        hidden = own_model_dir.rename(own_model_dir.with_name("hidden"))
        stage.kill(P)
        stage.kill(D)
        await volley.end()
        outcomes = {caller: caller.outcome() for caller in volley.callers}
        refused = {caller: end for caller, end in outcomes.items() if isinstance(end, Refusal)}
        assert {(caller.stream, end.status) for caller, end in refused.items()} >= {(True, 200), (False, 503)}
        for caller, end in refused.items():
            assert_told(end, expected[caller.ask.number])
        for caller, end in outcomes.items():
            assert caller in refused or end == expected[caller.ask.number]
        now = await stage.watch.outcomes()
        ended = {name: now.get(name, 0) - before.get(name, 0) for name in ("failed", "length")}
        answered = len(outcomes) - len(refused) + stage.discarded
        assert ended == {"failed": len(refused), "length": answered}
        await assert_absence(stage, expected)
        hidden.rename(own_model_dir)
        await until(stage.watch.ready, "ready again")
        stage.discarded = 0
        await stage.assert_whole(stage.send(), await stage.watch.outcomes())


def assert_told(end: Refusal, expected: Answer) -> None:
    """The type of the error, when to come back if there is a header to say it, and no wrong token before."""
    assert end.code == "worker_lost"
    assert end.token_ids == expected.token_ids[: len(end.token_ids)]
    if end.status != 200:
        assert (end.status, end.token_ids) == (503, ())
        assert end.retry_after is not None
        assert int(end.retry_after) >= 1


async def assert_absence(stage: Stage, expected: dict[int, Answer]) -> None:
    """Alive, not ready, nothing left over; who comes now waits a while and is told the same."""
    assert not await stage.watch.ready()
    assert (await stage.http.get("/health")).status_code == 200
    late = stage.send(ASKS[:4])
    await late.end()
    for caller in late.callers:
        end = caller.outcome()
        assert isinstance(end, Refusal)
        assert end.status == 503
        assert_told(end, expected[caller.ask.number])
    load = await stage.watch.load()
    assert load.waiting_requests == load.running_requests == 0
    assert not any(worker.up for worker in load.workers)
