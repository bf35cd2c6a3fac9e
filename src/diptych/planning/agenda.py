"""What is still to come in virtual time, in order.

Knows: instants, and that of two things at the same instant the one that was noted first comes first (ends of
steps before all others). Does not know: what happens.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

STEP_ENDS, OTHERS = 0, 1
"""Of things that happen at the same instant, the ends of steps come first."""


class Coming:
    """Something that will happen. A class and not a function with its arguments: compiled code makes and
    calls it several times as fast."""

    def happen(self) -> None:
        """Its time has come."""
        raise NotImplementedError


class Call(Coming):
    """Any function, for what is rare."""

    def __init__(self, action: Callable[..., None], values: tuple[Any, ...]) -> None:
        self._action = action
        self._values = values

    def happen(self) -> None:
        """See `Coming`."""
        self._action(*self._values)


class Agenda:
    """What happens at once, in order, and what happens later."""

    def __init__(self) -> None:
        self._soon: list[Coming] = []
        self._later: list[tuple[float, int, int, Coming]] = []
        self._pushed = 0

    def soon(self, what: Coming) -> None:
        """At this instant, after everything else that was to happen at once."""
        self._soon.append(what)

    def at(self, t_s: float, order: int, what: Coming) -> None:
        """At ``t_s``."""
        self._pushed += 1
        heappush(self._later, (t_s, order, self._pushed, what))

    def settle(self) -> None:
        """Let happen all that happens at once, also what follows from it."""
        soon, done = self._soon, 0
        while done < len(soon):
            soon[done].happen()
            done += 1
        soon.clear()

    def empty(self) -> bool:
        """Whether nothing comes later."""
        return not self._later

    def pop(self) -> tuple[float, int, int, Coming]:
        """The next thing to come, and its instant first."""
        return heappop(self._later)
