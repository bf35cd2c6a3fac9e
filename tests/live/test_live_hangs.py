"""The real engine over HTTP: a worker that stands still is ended, and its requests go on elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.served import Served, serve
from benchmarks.volley import Answer

from support.live_stage import SETTINGS, D, P, stage_of, undisturbed

pytest.importorskip("torch", reason="the built-in engine needs the engine extra")
pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def served(model_dir: Path) -> Iterator[Served]:
    """Impatient with silence."""
    with serve(str(model_dir), *SETTINGS, "--set", "limits.heartbeat_timeout_s=2") as served:
        yield served


@pytest.fixture(scope="module")
def expected(served: Served) -> dict[int, Answer]:
    """Answers without any fault."""
    return asyncio.run(undisturbed(served.url))


@pytest.mark.parametrize("victim", [P, D])
async def test_a_worker_that_hangs_at_work(served: Served, expected: dict[int, Answer], victim: str) -> None:
    async with stage_of(served, expected) as stage:
        before, restarts = await stage.watch.outcomes(), await stage.watch.restarts()
        volley = await stage.at_work(victim)
        await stage.assert_whole(volley, before)
        assert (await stage.watch.restarts())[victim] > restarts[victim]
        assert f"ending {victim}" in served.log_tail(20_000)
        assert "silent for 2" in served.log_tail(20_000)
