"""How a start looks: a moving line on a terminal, log lines elsewhere.

Knows: consoles. Does not know: what is being started.
"""

from __future__ import annotations

import logging
from types import TracebackType

from rich.console import Console
from rich.status import Status

log = logging.getLogger("diptych.cli")


class StartProgress:
    """Tells what the start is waiting for. On a terminal, between entering and leaving only."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None

    def say(self, words: str) -> None:
        """What happens now."""
        if self._console.is_terminal:
            if self._status is not None:
                self._status.update(words)
        else:
            log.info(words)

    def __enter__(self) -> StartProgress:
        """Show the line."""
        if self._console.is_terminal:
            self._status = self._console.status("starting")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wipe it."""
        if self._status is not None:
            self._status.stop()
        self._status = None
