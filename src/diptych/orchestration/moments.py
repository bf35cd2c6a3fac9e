"""The instants of one request, kept in order.

Knows: that a moment is recorded once, never before an earlier one, and never after a later one has passed.
Does not know: durations (they are metrics), clocks.
"""

from __future__ import annotations

from diptych.domain.report import Moment

_ORDER = {moment: place for place, moment in enumerate(Moment)}


class Moments:
    """First occurrence of each moment. A resumed request keeps what its earlier attempts reached."""

    def __init__(self) -> None:
        self._times_s: dict[Moment, float] = {}

    def mark(self, moment: Moment, t_s: float) -> None:
        """Record ``moment``, unless it or a later one is recorded; never earlier than the one before it."""
        if any(_ORDER[seen] >= _ORDER[moment] for seen in self._times_s):
            return
        self._times_s[moment] = max([t_s, *self._times_s.values()])

    def __contains__(self, moment: Moment) -> bool:
        return moment in self._times_s

    def as_dict(self) -> dict[Moment, float]:
        """A copy, in order."""
        return dict(self._times_s)
