"""The instants of one request, kept in order.

Knows: that a moment is recorded once, never before an earlier one, and never after a later one has passed.
Does not know: durations (they are metrics), clocks.
"""

from __future__ import annotations

from typing import Final

from diptych.domain.report import Moment

_ORDER: Final = {moment: place for place, moment in enumerate(Moment)}


class Moments:
    """First occurrence of each moment. A resumed request keeps what its earlier attempts reached."""

    __slots__ = ("_last", "_last_s", "_times_s")

    def __init__(self) -> None:
        self._times_s: dict[Moment, float] = {}
        self._last = -1
        self._last_s = float("-inf")

    def mark(self, moment: Moment, t_s: float) -> None:
        """Record ``moment``, unless it or a later one is recorded; never earlier than the one before it."""
        place = _ORDER[moment]
        if place > self._last:
            self._last = place
            if t_s > self._last_s:
                self._last_s = t_s
            self._times_s[moment] = self._last_s

    def __contains__(self, moment: Moment) -> bool:
        return moment in self._times_s

    def as_dict(self) -> dict[Moment, float]:
        """A copy, in order."""
        return dict(self._times_s)
