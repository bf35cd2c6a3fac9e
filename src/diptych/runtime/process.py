"""One child process: start it, read what it prints, end it for certain.

Knows: pids, signals, pipes. Does not know: workers' messages, restarts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections import deque
from collections.abc import Mapping, Sequence

TAIL_LINES = 40
"""Last lines of a child that are kept, to explain its end."""

MAX_LINE_BYTES = 1 << 16
"""Longer lines are cut into pieces: a child cannot make us buffer without bound."""

DRAIN_S = 0.5
"""How long to wait for the last output of a dead child (a grandchild may hold the pipe open)."""


class ChildProcess:
    """A child whose output goes to a logger, line by line. Ended only by its own handle."""

    def __init__(
        self, process: asyncio.subprocess.Process, output: asyncio.Task[None], tail: deque[str]
    ) -> None:
        self._process = process
        self._output = output
        self._tail = tail
        self._pidfd = _open_pidfd(process.pid)

    @classmethod
    async def start(
        cls, argv: Sequence[str], env: Mapping[str, str], pass_fds: Sequence[int], log: logging.Logger
    ) -> ChildProcess:
        """Start ``argv``; both its output streams go to ``log``. Raises `OSError`."""
        read_fd, write_fd = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                env=dict(env),
                pass_fds=tuple(pass_fds),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_fd,
                stderr=write_fd,
                start_new_session=True,  # Ctrl-C and Ctrl-Z are for the head to interpret
            )
        except BaseException:
            os.close(read_fd)
            raise
        finally:
            os.close(write_fd)
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        output = asyncio.create_task(_pump(read_fd, log, tail))
        return cls(process, output, tail)

    @property
    def pid(self) -> int:
        """Its process id; stays its own until `wait` has returned."""
        return self._process.pid

    @property
    def tail(self) -> tuple[str, ...]:
        """Its last lines of output."""
        return tuple(self._tail)

    def kill(self) -> None:
        """End it now (SIGKILL), stopped or not. Harmless when it has ended."""
        self._signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end (SIGTERM)."""
        self._signal(signal.SIGTERM)

    async def wait(self) -> int:
        """Wait for its end; its exit status (negative: the signal)."""
        status = await self._process.wait()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        await asyncio.wait([self._output], timeout=DRAIN_S)
        self._output.cancel()
        return status

    def _signal(self, number: signal.Signals) -> None:
        """By pidfd: it can't hit another process, and does not reap this one behind the event loop's back."""
        with contextlib.suppress(ProcessLookupError):
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            elif self._process.returncode is None:
                self._process.send_signal(number)


def _open_pidfd(pid: int) -> int | None:
    """None when the child has ended already, or where the kernel has no pidfds."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def describe_exit(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exited with status {status}"
    return f"was ended by {signal.Signals(-status).name}"


async def _pump(read_fd: int, log: logging.Logger, tail: deque[str]) -> None:
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_fd, "rb", buffering=0)
    )
    try:
        rest = b""
        while data := await reader.read(MAX_LINE_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            _emit(lines if len(rest) < MAX_LINE_BYTES else [*lines, rest], log, tail)
            rest = rest if len(rest) < MAX_LINE_BYTES else b""
        _emit([rest] if rest else [], log, tail)
    finally:
        transport.close()


def _emit(lines: list[bytes], log: logging.Logger, tail: deque[str]) -> None:
    for line in lines:
        text = line.decode(errors="replace").rstrip()
        if text:
            tail.append(text)
            log.info("%s", text)
