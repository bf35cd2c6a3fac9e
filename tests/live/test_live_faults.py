"""The real engine over HTTP: whoever dies or leaves in whatever phase, every request ends exactly once, with
the tokens of an undisturbed, whole run, and nothing stays held."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.served import Resources, Served, serve
from benchmarks.volley import IN_FLIGHT, Answer, Volley

from support.live_stage import (
    SETTINGS,
    D,
    P,
    Stage,
    decoding,
    handed,
    in_flight,
    stage_of,
    undisturbed,
)

pytest.importorskip("torch", reason="the built-in engine needs the engine extra")
pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

VICTIMS = pytest.mark.parametrize("victim", [P, D])
PHASES = ("queued", "prefilling", "handing_off", "decoding")
RSS_GROWTH_BYTES = 24 << 20
"""Rings of reports fill up and pools of memory settle; a leak of KV, streams or sockets is far more."""


@pytest.fixture(scope="module")
def served(model_dir: Path) -> Iterator[Served]:
    """Patient: only what a test does to a worker ends it."""
    patience = ("--set", "limits.heartbeat_timeout_s=120", "--set", "limits.stall_timeout_s=600")
    with serve(str(model_dir), *SETTINGS, *patience) as served:
        yield served


@pytest.fixture(scope="module")
def expected(served: Served) -> dict[int, Answer]:
    """Answers without any fault."""
    return asyncio.run(undisturbed(served.url))


@pytest.fixture(scope="module")
def at_first(served: Served, expected: dict[int, Answer]) -> Resources:
    """What the head holds once it has answered a volley."""
    return asyncio.run(served.head_at_rest())


async def in_phase(stage: Stage, phase: str, victim: str) -> tuple[Volley, set[str]]:
    """Requests in this phase, and who stands still."""
    match phase:
        case "queued":
            return await stage.queued(), {P}
        case "prefilling":
            return await stage.prefilling(), {P}
        case "handing_off":
            return await stage.handing_off(), {D}
        case _:
            return await stage.decoding(victim), {victim}


def test_outputs_show_a_token_that_is_lost_or_doubled(expected: dict[int, Answer]) -> None:
    assert len(expected) >= 32
    pairs = [pair for a in expected.values() for pair in zip(a.token_ids, a.token_ids[1:], strict=False)]
    assert sum(one != other for one, other in pairs) > 0.6 * len(pairs)
    assert len({answer.token_ids[:8] for answer in expected.values()}) > 16


async def test_without_a_fault_streams_say_what_whole_answers_say(
    served: Served, expected: dict[int, Answer], at_first: Resources
) -> None:
    async with stage_of(served, expected) as stage:
        before = await stage.watch.outcomes()
        await stage.assert_whole(stage.send(), before)
        assert set((await stage.watch.restarts()).values()) == {0}


@VICTIMS
@pytest.mark.parametrize("phase", PHASES)
async def test_a_worker_killed(
    served: Served, expected: dict[int, Answer], at_first: Resources, phase: str, victim: str
) -> None:
    async with stage_of(served, expected) as stage:
        before, restarts = await stage.watch.outcomes(), await stage.watch.restarts()
        volley, frozen = await in_phase(stage, phase, victim)
        assert in_flight(volley) >= IN_FLIGHT
        stage.kill(victim)
        stage.thaw(*frozen - {victim})
        await stage.assert_whole(volley, before)
        assert await stage.watch.restarts() == restarts | {victim: restarts[victim] + 1}


@pytest.mark.parametrize("phase", PHASES)
async def test_clients_that_leave(
    served: Served, expected: dict[int, Answer], at_first: Resources, phase: str
) -> None:
    """Of those who wait and those who are served, of streams and of whole answers."""
    async with stage_of(served, expected) as stage:
        before, restarts = await stage.watch.outcomes(), await stage.watch.restarts()
        volley, frozen = await in_phase(stage, phase, D)
        sure = {"handing_off": handed, "decoding": decoding}.get(phase, lambda volley: volley.callers)
        assert in_flight(volley) >= IN_FLIGHT
        leaving = sure(volley)[::2]
        if frozen == {P}:
            assert {caller.stream for caller in leaving} == {True, False}
        else:
            leaving += [c for c in volley.callers if not c.stream and not c.ended and c.ask.max_tokens > 16][
                :3
            ]
        for caller in leaving:
            caller.hang_up()
        await stage.aborted(before.get("aborted", 0) + len(leaving))
        stage.thaw(*frozen)
        await stage.assert_whole(volley, before)
        assert await stage.watch.restarts() == restarts


async def test_afterwards_the_head_holds_no_more_than_at_first(
    served: Served, expected: dict[int, Answer], at_first: Resources
) -> None:
    async with stage_of(served, expected) as stage:
        await stage.assert_whole(stage.send(), await stage.watch.outcomes())
    now = await served.head_at_rest()
    print(f"head at first {at_first}, now {now}")
    assert now.fds <= at_first.fds
    assert now.threads <= at_first.threads
    assert now.rss_bytes - at_first.rss_bytes < RSS_GROWTH_BYTES
