"""Stop strings across token boundaries.

Knows: text as it comes. Does not know: tokens, requests.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Lets text through up to the first stop string.

    A match is taken at the first character that completes any stop string; of several that end there the
    longest counts. What goes out therefore does not depend on how the text was cut into pieces.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        self._stops = tuple(stops)
        self._include = include
        self._held = ""
        self.matched: str | None = None
        """The stop string that was found."""

    def feed(self, text: str, *, look: bool = True) -> str:
        """Text that may go out now. After a match nothing does.

        Without ``look`` everything goes out, and no stop string begins in it (`min_tokens`).
        """
        if self.matched is not None:
            return ""
        self._held += text
        if not look or not self._stops:
            return self.finish()
        if (found := self._first_match()) is not None:
            return self._end_at(*found)
        keep = self._possible_start()
        out, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return out

    def finish(self) -> str:
        """What was held back: no stop string came of it."""
        out, self._held = self._held, ""
        return out

    def _first_match(self) -> tuple[int, str] | None:
        """End of the match that ends first, and its stop string."""
        ends = [
            (place + len(stop), -len(stop), stop)
            for stop in self._stops
            if (place := self._held.find(stop)) >= 0
        ]
        if not ends:
            return None
        end, _, stop = min(ends)
        return end, stop

    def _end_at(self, end: int, stop: str) -> str:
        self.matched = stop
        out = self._held[: end if self._include else end - len(stop)]
        self._held = ""
        return out

    def _possible_start(self) -> int:
        """Length of the longest end of the held text that could be the beginning of a stop string."""
        longest = min(len(self._held), max(map(len, self._stops)) - 1)
        for length in range(longest, 0, -1):
            tail = self._held[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
