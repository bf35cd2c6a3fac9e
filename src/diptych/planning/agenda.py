"""What is still to come in virtual time, in order.

Knows: instants, and that of two things at the same instant the one that was noted first comes first (ends of
steps before all others). Does not know: what happens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

STEP_ENDS: Final = 0
OTHERS: Final = 1
"""Of things that happen at the same instant, the ends of steps come first."""


class Coming:
    """Something that will happen. A class and not a function with its arguments: compiled code makes and
    calls it several times as fast."""

    __slots__ = ("order", "t_s")

    t_s: float
    """When, if not at once."""
    order: int
    """Which of those at the same instant comes first."""

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
    """What happens at once, in order, and what happens later.

    What comes later is a sorted list, the next thing last, and no heap: there are few, and compiled code
    compares their instants without asking an object of each.
    """

    def __init__(self) -> None:
        self._soon: list[Coming] = []
        self._later: list[Coming] = []

    def soon(self, what: Coming) -> None:
        """At this instant, after everything else that was to happen at once."""
        self._soon.append(what)

    def at(self, t_s: float, order: int, what: Coming) -> None:
        """At ``t_s``."""
        what.t_s, what.order = t_s, order
        later = self._later
        place, end = 0, len(later)
        while place < end:
            middle = (place + end) // 2
            other = later[middle]
            if other.t_s > t_s or (other.t_s == t_s and other.order > order):
                place = middle + 1
            else:
                end = middle
        later.insert(place, what)

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

    def pop(self) -> Coming:
        """The next thing to come."""
        return self._later.pop()
