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
from typing import Protocol

from diptych.domain.errors import Bug, SpecError
from diptych.transfer.mapping import MADV_POPULATE_WRITE, Mapping


class SharedSegment:
    """A mapping of shared memory. `close` unmaps; the bytes go when the last process has let go."""

    def __init__(self, fd: int, size_bytes: int, *, fresh: bool = False) -> None:
        self.fd = fd
        self.size_bytes = size_bytes
        self._mapping: Mapping | None = Mapping(fd, size_bytes, writable=True)
        self._populate(fresh)

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
    def buffer(self) -> memoryview:
        """The bytes, writable."""
        return self._open.buffer

    @property
    def huge_bytes(self) -> int:
        """How much of it lies on large pages; 0 where the system has none for it."""
        return self._open.huge_bytes()

    def close(self) -> None:
        """Close the descriptor, and unmap once nobody holds a view; a second call does nothing."""
        if self._mapping is not None:
            self._mapping = None
            os.close(self.fd)

    @property
    def _open(self) -> Mapping:
        if self._mapping is None:
            raise Bug("the segment is closed")
        return self._mapping

    def _populate(self, fresh: bool) -> None:
        """Make every page present, and large where the system allows, without changing the contents.

        An older kernel cannot populate for writing; then one byte of each page is written if the segment is
        ``fresh``, and only read if it is not: others may be writing there, and a byte put back could undo
        theirs.
        """
        mapping = self._open
        mapping.prefer_huge()
        if not mapping.advise(MADV_POPULATE_WRITE):
            touch(mapping.buffer, fresh)


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


class Bytes(Protocol):
    """Memory, a byte at a time."""

    def __len__(self) -> int:
        """How many."""
        ...

    def __getitem__(self, place: int, /) -> int:
        """One byte."""
        ...

    def __setitem__(self, place: int, value: int, /) -> None:
        """Change one byte."""
        ...


def touch(memory: Bytes, fresh: bool) -> None:
    """Make every page present by hand."""
    for place in range(0, len(memory), mmap.PAGESIZE):
        if fresh:
            memory[place] = 0
        else:
            memory[place]
