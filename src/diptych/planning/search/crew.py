"""Simulations in several processes.

Knows: tasks, who does which, progress. Does not know: processes (`hand`), what the results are for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import TracebackType

from diptych.domain.cluster import ClusterSpec
from diptych.domain.worker import Role
from diptych.planning.search.draws import Draw
from diptych.planning.search.goodput import STRETCH, Goodput, Search, find_goodput, parts_of, requests_needed
from diptych.planning.search.hand import Hand

Draws = dict[tuple[str, int], Draw]
"""Draws of every workload: (name, seed) → requests."""

Progress = Callable[[str, int, int], None]
"""What is under way, how many of its tasks are done, of how many."""


@dataclass(frozen=True)
class Task:
    """Find one goodput."""

    spec: ClusterSpec
    workload: str
    seed: int
    guess_rps: float
    search: Search


def _size(task: Task) -> float:
    """Roughly how long it takes: requests of one simulation, and the steps that cut prompts cost."""
    parts = parts_of(task.spec, task.search)
    requests = min(requests_needed(task.guess_rps / parts, task.search), STRETCH * task.search.most_requests)
    mixed = [pool for pool in task.spec.pools if pool.role is Role.MIXED]
    smallest = min((pool.token_budget for pool in mixed), default=8192)
    return requests * (1.0 + 1000.0 / smallest)


def quiet(what: str, done: int, of: int) -> None:
    """No progress."""


def run_task(task: Task, draws: Draws) -> Goodput:
    """The task in this process."""
    return find_goodput(task.spec, draws[task.workload, task.seed], task.guess_rps, task.search)


class Crew:
    """Runs tasks, the largest first; results come in the order of the tasks, whoever ran them.

    With one process everything runs in this one. Others are spawned: nothing depends on what this one holds.
    """

    def __init__(self, draws: Draws, processes: int, progress: Progress = quiet) -> None:
        self._draws = draws
        self._processes = processes
        self._progress = progress
        self._hands: list[Hand] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hand in self._hands:
            hand.end()

    def run(self, what: str, tasks: Sequence[Task]) -> list[Goodput]:
        """All of them. Raises `ProcessLost` if a process died."""
        self._progress(what, 0, len(tasks))
        if self._processes == 1:
            return [self._alone(what, number, task, len(tasks)) for number, task in enumerate(tasks)]
        idle = self._called(len(tasks))
        smallest_first = sorted(range(len(tasks)), key=lambda number: _size(tasks[number]))
        busy: dict[object, tuple[Hand, int]] = {}
        found: dict[int, Goodput] = {}
        while len(found) < len(tasks):
            while idle and smallest_first:
                hand, number = idle.pop(), smallest_first.pop()
                hand.give(tasks[number])
                busy[hand.pipe] = hand, number
            for pipe in wait([hand.pipe for hand, _ in busy.values()]):
                hand, number = busy.pop(pipe)
                found[number] = hand.take()
                idle.append(hand)
                self._progress(what, len(found), len(tasks))
        return [found[number] for number in range(len(tasks))]

    def _called(self, tasks: int) -> list[Hand]:
        """As many processes as there is work for. All are started before the first is given anything."""
        while len(self._hands) < min(self._processes, tasks):
            self._hands.append(Hand(run_task, self._draws))
        return self._hands[:tasks]

    def _alone(self, what: str, number: int, task: Task, of: int) -> Goodput:
        found = run_task(task, self._draws)
        self._progress(what, number + 1, of)
        return found
