"""Loops on a virtual clock: what leaves when, whatever the answers do."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.bench.alarm import Alarm
from diptych.bench.bodies import Bodies, Extras
from diptych.bench.load import ClosedLoop, Loaded, Means, OpenLoop
from diptych.bench.prompts import TokenPrompts
from diptych.bench.sample import Outcome, Sample
from diptych.bench.schedule import Limits, Schedule, schedule_of
from diptych.runtime.clock import MonotonicClock
from diptych.workload.record import Arrival, Workload

FOREVER = float("inf")


class VirtualTime:
    """A clock and a waker: time jumps to the next moment that somebody waits for, once nobody can run."""

    def __init__(self) -> None:
        self.value_s = 0.0
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()

    def now_s(self) -> float:
        return self.value_s

    async def until(self, at_s: float) -> None:
        if at_s > self.value_s:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (at_s, next(self._numbers), future))
            await future

    async def drive(self) -> None:
        while True:
            for _ in range(20):  # longer than any chain of callbacks here
                await asyncio.sleep(0)
            while self._waiting:
                at_s, _, future = heapq.heappop(self._waiting)
                if not future.done():
                    self.value_s = at_s
                    future.set_result(None)
                    break


class Answers:
    """A `Sender` that takes as long as it is told by the request's number."""

    def __init__(self, time: VirtualTime, takes_s: Callable[[int], float]) -> None:
        self._time = time
        self._takes_s = takes_s
        self.in_flight = self.most_in_flight = 0

    async def send(self, path: str, body: bytes, sample: Sample) -> None:
        sample.sent_s = self._time.now_s()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if (takes_s := self._takes_s(sample.index)) == FOREVER:
            await asyncio.Event().wait()
        await self._time.until(sample.sent_s + takes_s)
        self.in_flight -= 1
        sample.end_s, sample.outcome = self._time.now_s(), Outcome.COMPLETED


def at(t_s: float, session: str | None = None, delay_s: float | None = None) -> Arrival:
    return Arrival(t_s=t_s, input_tokens=4, output_tokens=2, session_id=session, delay_s=delay_s)


def schedule(*arrivals: Arrival) -> Schedule:
    return schedule_of(Workload("w", lambda: iter(arrivals)), Limits(), None, clamp=False)


def means(time: VirtualTime, answers: Answers) -> Means:
    return Means(answers, "/", Bodies("completions", "m", TokenPrompts(100, 8, 0), Extras()), time)


async def open_loop(
    planned: Schedule,
    takes_s: Callable[[int], float],
    *,
    duration_s: float | None = None,
    stop_at_s: float = FOREVER,
) -> Loaded:
    time, stop = VirtualTime(), asyncio.Event()

    async def stopping() -> None:
        if stop_at_s < FOREVER:
            await time.until(stop_at_s)
            stop.set()

    beside = [asyncio.create_task(stopping()), asyncio.create_task(time.drive())]
    try:
        return await OpenLoop(planned, means(time, Answers(time, takes_s)), time, duration_s).run(stop)
    finally:
        for task in beside:
            task.cancel()


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1000)), min_size=1, max_size=12))
def test_requests_leave_when_they_are_due_however_slow_the_server_is(plan: list[tuple[float, float]]) -> None:
    plan.sort()
    start_s = plan[0][0]
    planned = schedule(*(at(t_s) for t_s, _ in plan))
    loaded = asyncio.run(open_loop(planned, lambda index: plan[index][1]))
    assert [one.due_s for one in loaded.samples] == [t_s - start_s for t_s, _ in plan]
    assert all(one.sent_s == one.due_s for one in loaded.samples)
    assert loaded.not_sent == 0 and not loaded.interrupted


async def test_a_session_waits_for_its_answer_and_its_pause() -> None:
    planned = schedule(at(0, "a"), at(1, "b"), at(2, "a", 3.0), at(60, "a", 1.0))
    loaded = await open_loop(planned, lambda index: 10.0)
    due = {one.index: one.due_s for one in loaded.samples}
    assert due == {0: 0, 1: 1, 2: 13, 3: 60}  # 0 + 10 + 3; t_s is only the earliest time
    assert all(one.sent_s == one.due_s for one in loaded.samples)


async def test_a_pause_beyond_the_duration_is_not_sent_but_counted() -> None:
    planned = schedule(at(0, "a"), at(1, "a", 3.0), at(2, "a", 3.0))
    loaded = await open_loop(planned, lambda index: 10.0, duration_s=13.0)
    assert (len(loaded.samples), loaded.not_sent) == (1, 2)


async def test_a_stop_keeps_what_there_is() -> None:
    planned = schedule(*(at(float(t_s)) for t_s in range(10)))
    loaded = await open_loop(planned, lambda index: 1.5 if index else FOREVER, stop_at_s=4.25)
    outcomes = [one.outcome for one in loaded.samples]
    assert outcomes == [Outcome.UNFINISHED, *[Outcome.COMPLETED] * 2, *[Outcome.UNFINISHED] * 2]
    assert (loaded.not_sent, loaded.interrupted) == (5, True)


async def test_our_own_error_is_raised() -> None:
    def broken(index: int) -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await open_loop(schedule(at(0), at(1)), broken)


@pytest.mark.parametrize(("concurrency", "end_s"), [(1, 10.0), (3, 4.0), (20, 1.0)])
async def test_a_closed_loop_keeps_so_many_in_flight(concurrency: int, end_s: float) -> None:
    time = VirtualTime()
    driving = asyncio.create_task(time.drive())
    answers = Answers(time, lambda index: 1.0)
    planned = schedule(*(at(float(i)) for i in range(10)))
    loaded = await ClosedLoop(planned, means(time, answers), concurrency, None).run(asyncio.Event())
    driving.cancel()
    assert answers.most_in_flight == min(concurrency, 10)
    assert max(one.end_s or 0 for one in loaded.samples) == end_s
    assert sorted(one.index for one in loaded.samples) == list(range(10))


async def test_a_closed_loop_ends_with_its_duration() -> None:
    time = VirtualTime()
    driving = asyncio.create_task(time.drive())
    planned = schedule(*(at(float(i)) for i in range(10)))
    answers = Answers(time, lambda index: 1.0)
    loaded = await ClosedLoop(planned, means(time, answers), 2, 2.5).run(asyncio.Event())
    driving.cancel()
    assert (len(loaded.samples), loaded.not_sent) == (6, 4)


async def test_the_alarm_is_never_early_and_wakes_in_order() -> None:
    clock = MonotonicClock()
    start_s = clock.now_s()
    woken: list[float] = []

    async def wait(offset_s: float) -> None:
        await alarm.until(start_s + offset_s)
        assert clock.now_s() >= start_s + offset_s
        woken.append(offset_s)

    with Alarm(clock) as alarm:
        await asyncio.gather(*(wait(offset_s) for offset_s in (0.09, 0.03, 0.06, 0.0)))
    assert woken == [0.0, 0.03, 0.06, 0.09]
