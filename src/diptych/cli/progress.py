"""A bar on a terminal, silence elsewhere.

Knows: consoles. Does not know: what goes on.
"""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Steps:
    """Shows which share of a long piece of work is done."""

    def __init__(self, console: Console) -> None:
        columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._task: TaskID | None = None

    def say(self, words: str, share: float) -> None:
        """What happens now, and how much is done (0 to 1)."""
        if self._task is not None:
            self._progress.update(self._task, description=words, completed=share)

    def __enter__(self) -> Steps:
        """Show the bar."""
        self._progress.start()
        self._task = self._progress.add_task("starting", total=1.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wipe it."""
        self._progress.stop()
