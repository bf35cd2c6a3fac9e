"""A simulating process that dies ends the plan with an error; nobody waits for it for ever."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from diptych.domain.cluster import ClusterSpec
from diptych.domain.errors import SpecError
from diptych.planning.search.crew import Crew, Draws, Task
from diptych.planning.search.draws import Draw, Offer
from diptych.planning.search.goodput import Search
from diptych.planning.search.hand import ProcessLost
from diptych.workload.record import Arrival

PIPE_BYTES = 1 << 20
"""More than a pipe holds that nobody reads."""
OFFERS = tuple(Offer(float(i), 0.0, Arrival(t_s=float(i), input_tokens=9, output_tokens=9)) for i in range(5))
TASKS = [Task(ClusterSpec(), "w", 0, 1.0, Search(0.9, 0.1, 9, 1, 5, 0.0))] * 4


class Deadly:
    """Ends the process that unpickles it, as the kernel ends one when memory runs out."""

    def __reduce__(self) -> tuple[Callable[[int], None], tuple[int]]:
        return signal.raise_signal, (signal.SIGKILL,)


@pytest.mark.timeout(60)
def test_a_process_that_dies_at_its_start() -> None:
    """It leaves unread what it was to be sent."""
    draws: Draws = {("w", 0): (Deadly(), bytes(PIPE_BYTES))}  # type: ignore[dict-item]
    with pytest.raises(ProcessLost, match=r"ended by SIGKILL.*--processes 1"), Crew(draws, 2) as crew:
        crew.run("simulating finalists", TASKS)


@pytest.mark.timeout(60)
def test_a_process_that_is_killed() -> None:
    """At whatever moment, from outside."""
    draws: Draws = {("w", 0): Draw(OFFERS * (PIPE_BYTES // 100), 512, False)}
    killer = threading.Thread(target=_kill_the_first, daemon=True)
    killer.start()
    with pytest.raises(ProcessLost, match="SIGKILL"), Crew(draws, 2) as crew:
        crew.run("simulating finalists", TASKS)
    killer.join()
    assert not multiprocessing.active_children()


@pytest.mark.timeout(60)
def test_a_process_that_fails() -> None:
    """Nobody foresaw the error, so the process has said it and is gone."""
    with pytest.raises(ProcessLost, match="status 1"), Crew({}, 2) as crew:
        crew.run("simulating finalists", TASKS)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("processes", [1, 2])
def test_errors_for_people_are_the_same_from_any_process(processes: int) -> None:
    draws: Draws = {("w", 0): Draw(OFFERS, 512, False)}
    with pytest.raises(SpecError, match="profile"), Crew(draws, processes) as crew:
        crew.run("simulating finalists", TASKS)


def _kill_the_first() -> None:
    while not (started := multiprocessing.active_children()):
        time.sleep(0.001)
    pid = started[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
