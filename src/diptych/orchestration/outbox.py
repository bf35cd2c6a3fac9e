"""Commands on their way out of one `handle` call.

Knows: their order. Does not know: who asked for them.
"""

from __future__ import annotations

from diptych.domain.commands import Command, Send, WorkerCommand
from diptych.orchestration.registry import WorkerRef


class Outbox:
    """A list that is emptied at the end of each `handle`."""

    def __init__(self) -> None:
        self._commands: list[Command] = []

    def add(self, command: Command) -> None:
        """Append a command for the driver."""
        self._commands.append(command)

    def send(self, to: WorkerRef, command: WorkerCommand) -> None:
        """Append a command for one incarnation of a worker."""
        self._commands.append(Send(to[0], to[1], command))

    def take(self) -> list[Command]:
        """All commands since the last call."""
        commands, self._commands = self._commands, []
        return commands
