"""How long each stage of a start took.

Knows: a clock. Does not know: what is being started.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping


class Stages:
    """Stages that follow each other without a gap, in seconds, in order."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        """The first stage begins now."""
        self._now_s = now_s
        self._last_s = now_s()
        self.seconds: dict[str, float] = {}

    def reached(self, name: str, at_s: float | None = None) -> None:
        """The stage ``name`` (an identifier) has ended, now or ``at_s``, and the next one begins."""
        ended_s = self._now_s() if at_s is None else at_s
        self.seconds[name] = ended_s - self._last_s
        self._last_s = ended_s


def in_words(seconds: Mapping[str, float]) -> str:
    """``weights 1.2 s, warm up 0.3 s``."""
    return ", ".join(f"{name.replace('_', ' ')} {took_s:.1f} s" for name, took_s in seconds.items())
