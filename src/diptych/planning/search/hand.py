"""One process that simulates: started, given tasks, ended; what is known when it has died.

Knows: processes, pipes, signals. Does not know: what a task is, how tasks are shared out.

A process may die at any moment, most often because memory runs out, so nothing waits where only a living one
could answer: the draws go through the pipe whose other end it alone holds, not with its start, and a broken
pipe is an error here. An executor of the standard library waits for ever in both cases.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from signal import Signals
from typing import Any

from diptych.domain.errors import DiptychError

LAST_S = 5.0
"""A process whose pipe is broken is given so long to end by itself, so that it can say why."""

Work = Callable[[Any, Any], Any]
"""From a task and what was handed over at the start to a result; importable by name."""


class ProcessLost(DiptychError):
    """A process that simulates has died; its task has no result."""

    code = "process_lost"


class Hand:
    """A spawned process that does one task at a time."""

    def __init__(self, work: Work, given: object) -> None:
        """``given`` is handed over once, before the first task."""
        context = SpawnContext()
        self.pipe, theirs = context.Pipe()
        self._to_give = [given]
        self._process = context.Process(target=_serve, args=(work, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def give(self, task: object) -> None:
        """One task; waits until the process takes it. Raises `ProcessLost`."""
        try:
            while self._to_give:
                self.pipe.send(self._to_give.pop())
            self.pipe.send(task)
        except OSError:
            raise self._lost() from None

    def take(self) -> Any:
        """The result of the task given last; waits for it. Raises `ProcessLost`, and what the task raised."""
        try:
            result = self.pipe.recv()
        except (EOFError, OSError):
            raise self._lost() from None
        if isinstance(result, DiptychError):
            raise result
        return result

    def end(self) -> None:
        """Whatever it is doing."""
        self._process.kill()
        self._process.join()
        self.pipe.close()

    def _lost(self) -> ProcessLost:
        self._process.join(LAST_S)
        status = self._process.exitcode
        if status is None or status >= 0:
            return ProcessLost(f"a simulating process ended with status {status}; what it said is above")
        return ProcessLost(
            f"a simulating process was ended by {Signals(-status).name}; "
            "if memory ran out, fewer of them need less (--processes 1)"
        )


def _serve(work: Work, pipe: Connection) -> None:
    """In the process: tasks until the pipe ends. Errors that are meant for people go back as results."""
    with suppress(EOFError):
        given = pipe.recv()
        while True:
            task = pipe.recv()
            try:
                result = work(task, given)
            except DiptychError as error:
                result = error
            pipe.send(result)
