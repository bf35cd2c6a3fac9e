"""The wall clock: the only place of the server that reads it. Durations never come from here."""

from __future__ import annotations

import time
from datetime import datetime


def wall_s() -> int:
    """Whole seconds since 1970, as the API dates its answers."""
    return int(time.time())


def local_time(pattern: str) -> str:
    """The local date and time by a `strftime` pattern, as chat templates ask for it."""
    return datetime.now().strftime(pattern)
