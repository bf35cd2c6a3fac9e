"""Simulations in several processes.

Knows: a pool of spawned processes, tasks, progress. Does not know: what the results are for.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from types import TracebackType

from diptych.domain.cluster import ClusterSpec
from diptych.domain.worker import Role
from diptych.planning.search.draws import Draw
from diptych.planning.search.goodput import STRETCH, Goodput, Search, find_goodput, parts_of, requests_needed

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


_DRAWS: Draws = {}
"""Of this process; filled once when it starts, so that no task carries its requests along."""


def _begin(draws: Draws) -> None:
    _DRAWS.update(draws)


def _work(task: Task) -> Goodput:
    return run_task(task, _DRAWS)


def run_task(task: Task, draws: Draws) -> Goodput:
    """The task in this process."""
    return find_goodput(task.spec, draws[task.workload, task.seed], task.guess_rps, task.search)


class Crew:
    """Runs tasks, the largest first; results come in the order of the tasks, whoever ran them.

    With one process everything runs in this one. Others are spawned: nothing depends on what this one holds.
    """

    def __init__(self, draws: Draws, processes: int, progress: Progress = quiet) -> None:
        self._draws = draws
        self._progress = progress
        self._pool: ProcessPoolExecutor | None = None
        if processes > 1:
            self._pool = ProcessPoolExecutor(
                processes, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(draws,)
            )

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def run(self, what: str, tasks: Sequence[Task]) -> list[Goodput]:
        """All of them."""
        self._progress(what, 0, len(tasks))
        if self._pool is None:
            return [self._alone(what, number, task, len(tasks)) for number, task in enumerate(tasks)]
        largest_first = sorted(range(len(tasks)), key=lambda number: -_size(tasks[number]))
        futures: dict[int, Future[Goodput]] = {}
        for number in largest_first:
            futures[number] = self._pool.submit(_work, tasks[number])
        for done, future in enumerate(as_completed(futures.values())):
            future.result()
            self._progress(what, done + 1, len(tasks))
        return [futures[number].result() for number in range(len(tasks))]

    def _alone(self, what: str, number: int, task: Task, of: int) -> Goodput:
        found = run_task(task, self._draws)
        self._progress(what, number + 1, of)
        return found
