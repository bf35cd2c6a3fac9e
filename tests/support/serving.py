"""A real `diptych serve` process for tests, on a free loopback port.

Knows: how to start one. Does not know: what is asked of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.served import serve


@contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """Run ``diptych serve ARGUMENTS`` and yield its base URL once ``/ready`` answers 200."""
    with serve(*arguments) as served:
        yield served.url
