"""One shared-memory segment: the KV memory of a domain on one host.

Knows: anonymous shared memory of Linux, how to touch it beforehand, how much memory is left. Does not know:
layouts, blocks.

The segment has no name on disk: it lives as long as a process has it open or mapped, so a crash of every
process leaves nothing behind, and a crash of one worker leaves the bytes to the others. Workers inherit the
file descriptor (or get it over a Unix socket) and attach.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from diptych.domain.errors import SpecError

_POPULATE_WRITE = 23
"""MADV_POPULATE_WRITE of Linux 5.14 and later, which `mmap` does not name."""

_PIECE_BYTES = 16 << 20
"""Touched in one call. A call holds the interpreter's lock; pieces let an event loop breathe in between."""


class SharedSegment:
    """A mapping of shared memory. `close` unmaps; the bytes go when the last process has let go."""

    def __init__(self, fd: int, size_bytes: int, *, fresh: bool = False) -> None:
        self.fd = fd
        self.size_bytes = size_bytes
        self._map = mmap.mmap(fd, size_bytes, flags=mmap.MAP_SHARED)
        _touch(self._map, fresh)

    @classmethod
    def create(cls, size_bytes: int, name: str = "diptych-kv") -> SharedSegment:
        """A new segment, every page present and zero: first touch later would cost 10 times a copy.

        The descriptor is inheritable, so that child processes can `attach` by number.

        Raises:
            SpecError: the machine has less memory left than ``size_bytes``.
        """
        left_bytes = available_bytes()
        if size_bytes > left_bytes:
            raise SpecError(
                f"kv memory of {size_bytes / 2**30:.2f} GiB exceeds the {left_bytes / 2**30:.2f} GiB "
                "that are available; lower kv.memory_bytes"
            )
        fd = os.memfd_create(name, 0)
        os.ftruncate(fd, size_bytes)
        return cls(fd, size_bytes, fresh=True)

    @classmethod
    def attach(cls, fd: int, size_bytes: int) -> SharedSegment:
        """The segment behind an inherited descriptor.

        Raises:
            SpecError: the descriptor is not open, or its segment is smaller than ``size_bytes``.
        """
        try:
            found_bytes = os.fstat(fd).st_size
        except OSError as error:
            raise SpecError(f"no shared segment at descriptor {fd}: {error.strerror}") from None
        if found_bytes < size_bytes:
            raise SpecError(f"shared segment has {found_bytes} bytes, {size_bytes} are needed")
        return cls(fd, size_bytes)

    @property
    def buffer(self) -> mmap.mmap:
        """The bytes, writable. Whoever builds views on them must drop those before `close`."""
        return self._map

    def close(self) -> None:
        """Unmap and close the descriptor; a second call does nothing."""
        if not self._map.closed:
            self._map.close()
            os.close(self.fd)


def available_bytes() -> int:
    """Memory that this process can still get: the machine's, cut by a cgroup's limit if there is one."""
    left_bytes = _machine_available_bytes()
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()) != "max":
        left_bytes = min(left_bytes, max(0, int(text) - int(used.read_text())))
    return left_bytes


def _machine_available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _touch(memory: mmap.mmap, fresh: bool) -> None:
    """Make every page present, without changing its contents.

    An older kernel cannot populate for writing; then one byte of each page is written if the segment is
    ``fresh``, and only read if it is not: others may be writing there, and a byte put back could undo theirs.
    """
    try:
        for offset in range(0, len(memory), _PIECE_BYTES):
            memory.madvise(_POPULATE_WRITE, offset, min(_PIECE_BYTES, len(memory) - offset))
    except OSError:
        for offset in range(0, len(memory), mmap.PAGESIZE):
            if fresh:
                memory[offset] = 0
            else:
                memory[offset]
