"""The one clock of the head and of its workers. Knows the machine's monotonic clock, nothing else."""

from __future__ import annotations

import time


class MonotonicClock:
    """Seconds since boot: one origin for all processes of a host, so worker times need no translation."""

    def now_s(self) -> float:
        """Seconds that never run backwards."""
        return time.monotonic()
