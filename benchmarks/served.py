"""A head process on a free loopback port, seen from outside: its URL, its workers, what each process holds.

Knows: starting, waiting until ready, /proc, signals to the head's own children. Does not know: what is asked
of it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

READY_TIMEOUT_S = 180.0
"""Far more than a start takes; a machine may be busy."""

END_TIMEOUT_S = 30.0

REST_TIMEOUT_S = 20.0
POLL_S = 0.05
STEADY_POLLS = 10

SERVE = (sys.executable, "-m", "diptych", "serve")


@dataclass(frozen=True)
class Resources:
    """What a process holds at one moment."""

    rss_bytes: int
    """Resident memory without shared memory: the KV segment is nobody's own."""
    fds: int
    threads: int


class Served:
    """One head process that answers under ``url``."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self.url = url
        self.pid = process.pid
        self._log = log

    def workers(self) -> dict[str, int]:
        """Pids of the worker processes that exist now, by worker id."""
        found: dict[str, int] = {}
        for pid in _children(self.pid):
            worker_id = _option(pid, "--worker-id")
            if worker_id is not None:
                found[worker_id] = pid
        return dict(sorted(found.items()))

    def signal(self, worker_id: str, number: signal.Signals) -> int:
        """Signal one worker and return its pid. Raises `ProcessLookupError` when it does not run."""
        pid = self.workers().get(worker_id)
        if pid is None:
            raise ProcessLookupError(f"{worker_id} does not run")
        handle = os.pidfd_open(pid)
        try:
            if _option(pid, "--worker-id") != worker_id:  # it has ended, and its pid is another's
                raise ProcessLookupError(f"{worker_id} does not run")
            signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)
        return pid

    def stopped(self, worker_id: str) -> bool:
        """Whether a SIGSTOP has taken effect."""
        pid = self.workers().get(worker_id)
        return pid is not None and _stat(pid)[0] == "T"

    def head(self) -> Resources:
        """What the head holds."""
        return resources(self.pid)

    def resources_of(self, worker_id: str) -> Resources:
        """What a worker holds. Raises `KeyError` when it does not run."""
        return resources(self.workers()[worker_id])

    async def head_at_rest(self) -> Resources:
        """What the head holds once it has stopped changing: sockets of clients that have gone are closed a
        moment later."""
        steady, last = 0, self.head()
        deadline_s = time.monotonic() + REST_TIMEOUT_S
        while steady < STEADY_POLLS and time.monotonic() < deadline_s:
            await asyncio.sleep(POLL_S)
            now = self.head()
            steady = steady + 1 if now == last else 0
            last = now
        return last

    def log_tail(self, size: int = 4000) -> str:
        """The last that the head and its workers have logged."""
        return os.pread(self._log.fileno(), size, max(0, os.fstat(self._log.fileno()).st_size - size)).decode(
            errors="replace"
        )


def resources(pid: int) -> Resources:
    """What a process holds now. Raises `OSError` when it has ended."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
    )
    own_kib = int(fields["RssAnon"].split()[0]) + int(fields["RssFile"].split()[0])
    return Resources(
        rss_bytes=own_kib * 1024, fds=len(os.listdir(f"/proc/{pid}/fd")), threads=int(fields["Threads"])
    )


@contextmanager
def serve(*arguments: str, command: Sequence[str] = SERVE) -> Iterator[Served]:
    """Run ``diptych serve ARGUMENTS`` (or another ``command`` that takes ``--port``) until the block ends."""
    port = _free_port()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, *arguments, "--port", str(port)], stdout=log, stderr=log)
        served = Served(f"http://127.0.0.1:{port}", process, log)
        try:
            if not _wait_until_ready(process, served.url):
                raise RuntimeError(f"{' '.join(command)} did not come up: {served.log_tail()}")
            yield served
        finally:
            _end(process)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> bool:
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            if httpx.get(f"{url}/ready", timeout=2.0).status_code == 200:
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _children(parent_pid: int) -> list[int]:
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state, ppid = _stat(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
            if ppid == parent_pid and state != "Z":
                found.append(int(entry.name))
    return found


def _stat(pid: int) -> tuple[str, int]:
    """State and parent. The name before them may hold anything, blanks and brackets too."""
    state, ppid, *_ = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return state, int(ppid)


def _option(pid: int, name: str) -> str | None:
    """The value of a command-line option of a process."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return words[words.index(name) + 1] if name in words[:-1] else None
