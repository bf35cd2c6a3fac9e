"""Deadlines by name: order, moves, and memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from diptych.orchestration.timers import STALE_ENTRIES, Timer, TimerKey, Timers

KEYS = [TimerKey(Timer.QUEUE, name) for name in "abcdef"]


def test_deadlines_cancelled_long_before_their_time_take_no_memory() -> None:
    timers = Timers()
    for number in range(20 * STALE_ENTRIES):
        key = TimerKey(Timer.QUEUE, f"request {number}")
        timers.set(key, 600.0 + number)
        timers.cancel(key)
    assert len(timers) <= STALE_ENTRIES + 1


@given(
    moves=st.lists(st.tuples(st.sampled_from(KEYS), st.none() | st.integers(0, 50)), max_size=60),
    cancelled=st.integers(0, 3 * STALE_ENTRIES),
)
def test_they_come_due_in_order_whatever_was_moved_or_cancelled(
    moves: list[tuple[TimerKey, int | None]], cancelled: int
) -> None:
    timers, due = Timers(), dict[TimerKey, float]()
    for key, t_s in moves:
        if t_s is None:
            timers.cancel(key)
            due.pop(key, None)
        else:
            timers.set(key, t_s)
            due[key] = t_s
    for number in range(cancelled):
        timers.set(TimerKey(Timer.ATTEMPT, str(number)), 60.0)
        timers.cancel(TimerKey(Timer.ATTEMPT, str(number)))
    came: list[tuple[float, TimerKey]] = []
    while (next_s := timers.next_s()) is not None:
        key = timers.pop_due(next_s)
        assert key is not None
        came.append((next_s, key))
    assert came == sorted((t_s, key) for key, t_s in due.items())
