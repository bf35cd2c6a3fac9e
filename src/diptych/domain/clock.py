"""Time as something that is handed in. Knows the protocol; reads no clock itself."""

from typing import Protocol


class Clock(Protocol):
    """A source of seconds that never runs backwards."""

    def now_s(self) -> float:
        """Seconds since an arbitrary origin."""
        ...
