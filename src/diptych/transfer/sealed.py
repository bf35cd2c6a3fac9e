"""A memory file that one process writes once and all may read: no name, no second copy, no change.

Knows: memory files, locks, seals. Does not know: what is written.

The kernel's seal is the only sign of completeness. Whoever comes first takes the lock, writes and seals;
the others wait for the lock and find the seal. If a writer dies, the kernel frees its lock, the next one
finds no seal and writes from the start. Once sealed, nobody can change or shorten the file, so a mapping can
neither be written through nor break.

    header (64 bytes): mark, version, place and size of the index, digest of the index
    data, each piece on a cache line of its own
    index
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from struct import Struct

from diptych.domain.errors import ClusterError
from diptych.transfer.mapping import MADV_POPULATE_READ, Mapping

ALIGNMENT_BYTES = 64
"""One cache line: what kernels want of weights."""

_HEADER = Struct("<8sIIQQ16s")
_MARK, _VERSION = b"diptych\0", 1
_DIGEST_BYTES = 16
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_MOST_WRITTEN_BYTES = 1 << 30
"""In one call; Linux writes at most 2 GiB."""


class DamagedFile(ClusterError):
    """A sealed file does not hold what it should. It cannot be repaired, only given up."""

    code = "shared_memory_damaged"


class Appender:
    """Where a writer puts its pieces."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._end = ALIGNMENT_BYTES

    def append(self, piece: memoryview) -> int:
        """Write ``piece``, and say where it lies."""
        start = self._end + -self._end % ALIGNMENT_BYTES
        flat = piece.cast("B")
        for first in range(0, len(flat), _MOST_WRITTEN_BYTES):
            self._write(flat[first : first + _MOST_WRITTEN_BYTES], start + first)
        self._end = start + len(flat)
        return start

    def finish(self, index: bytes) -> None:
        """Write the index and the header, and seal all of it."""
        place = self.append(memoryview(index))
        header = _HEADER.pack(_MARK, _VERSION, 0, place, len(index), _digest(index))
        self._write(memoryview(header), 0)
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, _SEALS)

    def _write(self, data: memoryview, place: int) -> None:
        while data:
            written = os.pwrite(self._fd, data, place)
            data, place = data[written:], place + written


def create_unsealed(name: str) -> int:
    """The descriptor of an empty file that may be sealed; children get it only if it is passed on."""
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def fill_once(fd: int, fill: Callable[[Appender], bytes]) -> bool:
    """Let ``fill`` write the pieces and give the index, unless somebody has done so; whether it was us.

    Raises what ``fill`` raises; the next one who comes then writes from the start.
    """
    with _alone(fd) as own:
        if is_sealed(own):
            return False
        os.ftruncate(own, 0)  # what a writer left that died
        appender = Appender(own)
        appender.finish(fill(appender))
        return True


def is_sealed(fd: int) -> bool:
    """Whether it is complete, for ever."""
    return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE != 0


def map_sealed(fd: int) -> tuple[Mapping, bytes]:
    """All of a complete file, present and read-only, and its index.

    Raises:
        DamagedFile: it is not complete, or its index is not what was written.
    """
    if not is_sealed(fd):
        raise DamagedFile("the shared memory is not complete")
    size_bytes = os.fstat(fd).st_size
    if size_bytes < ALIGNMENT_BYTES:
        raise DamagedFile(f"shared memory of {size_bytes} bytes has no header")
    reading = _own(fd, os.O_RDONLY)
    try:
        mapping = Mapping(reading, size_bytes, writable=False)
    finally:
        os.close(reading)
    index = _index(mapping.buffer)
    mapping.prefer_huge()
    mapping.advise(MADV_POPULATE_READ)
    return mapping, index


def _index(buffer: memoryview) -> bytes:
    mark, version, _, place, size, digest = _HEADER.unpack_from(buffer)
    if (mark, version) != (_MARK, _VERSION):
        raise DamagedFile(f"the header of the shared memory reads {mark!r}, version {version}")
    index = bytes(buffer[place : place + size])
    if len(index) != size or _digest(index) != digest:
        raise DamagedFile("the index of the shared memory is not what was written")
    return index


def _digest(index: bytes) -> bytes:
    return blake2b(index, digest_size=_DIGEST_BYTES).digest()


@contextmanager
def _alone(fd: int) -> Iterator[int]:
    """A descriptor with which no other process is inside this block. The lock ends with its holder."""
    own = _own(fd, os.O_RDWR)
    try:
        fcntl.flock(own, fcntl.LOCK_EX)
        yield own
    finally:
        os.close(own)


def _own(fd: int, mode: int) -> int:
    """The same file opened anew: processes that inherit a descriptor share its locks and its rights."""
    return os.open(f"/proc/self/fd/{fd}", mode | os.O_CLOEXEC)
