"""A real `diptych serve` process for tests, on a free loopback port.

Knows: starting, waiting until ready, ending by its own pid. Does not know: what is asked of it.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

READY_TIMEOUT_S = 90.0


@contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """Run ``diptych serve ARGUMENTS`` and yield its base URL once ``/ready`` answers 200."""
    port = _free_port()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "diptych", "serve", *arguments, "--port", str(port)],
            stdout=log,
            stderr=log,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            if not _wait_until_ready(process, url):
                log.seek(0)
                raise AssertionError(f"diptych serve did not come up: {log.read().decode()[-4000:]}")
            yield url
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
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
