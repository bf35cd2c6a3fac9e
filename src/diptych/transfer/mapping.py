"""Shared memory seen by this process: where it lies, how large its pages are.

Knows: mmap, madvise, pages. Does not know: what the bytes mean.

Python's own `mmap` cannot say where to map; a page of 2 MiB needs an address that is a multiple of 2 MiB.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from pathlib import Path
from typing import Any

HUGE_BYTES = 2 << 20
"""A large page of x86 and, with 4 KiB pages, of Arm."""

MADV_POPULATE_READ, MADV_POPULATE_WRITE = 22, 23
"""Of Linux 5.14 and later."""

_MAP_FIXED = 0x10
_PROT_NONE = 0
_MAP_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
    ctypes.c_long,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Mapping:
    """The whole of an open memory file. Unmapped when the last view of ``buffer`` is gone."""

    def __init__(self, fd: int, size_bytes: int, *, writable: bool) -> None:
        """Raises `OSError` when the kernel refuses."""
        self.size_bytes = size_bytes
        self._address = _map(fd, size_bytes, mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0))
        root = (ctypes.c_char * size_bytes).from_address(self._address)
        weakref.finalize(root, _libc.munmap, self._address, size_bytes).atexit = False
        view = memoryview(root).cast("B")
        self.buffer = view if writable else view.toreadonly()
        """The bytes. Views of views keep the mapping alive."""

    def advise(self, advice: int) -> bool:
        """Give the kernel advice about all of it; whether it was taken. An advice that this kernel does not
        know changes nothing."""
        return _libc.madvise(self._address, self.size_bytes, advice) == 0

    def prefer_huge(self) -> None:
        """Say that large pages are welcome, before memory is touched. Changes nothing where the system gives
        none to shared memory.

        They are not forced (`MADV_COLLAPSE`): every page would be touched twice, and no gain in steps could
        be measured twice.
        """
        if self.size_bytes >= HUGE_BYTES:
            self.advise(mmap.MADV_HUGEPAGE)

    def huge_bytes(self) -> int:
        """How much of it this process sees through large pages."""
        return self.pages().get("ShmemPmdMapped", 0)

    def pages(self) -> dict[str, int]:
        """What the kernel tells of it, in bytes: ``Rss``, ``Pss`` and so on; empty where it tells nothing."""
        found: dict[str, int] = {}
        with Path("/proc/self/smaps").open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith(f"{self._address:x}-"):
                    break
            for line in lines:
                name, _, rest = line.partition(":")
                if not rest.endswith(" kB\n"):
                    break
                found[name] = int(rest.split()[0]) << 10
        return found


def _map(fd: int, size_bytes: int, protection: int) -> int:
    """Map where large pages fit: reserve too much, keep the part that begins on a boundary."""
    reserved_bytes = size_bytes + HUGE_BYTES
    start = _checked(
        _libc.mmap(None, reserved_bytes, _PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    )
    address = start + -start % HUGE_BYTES
    try:
        _checked(_libc.mmap(address, size_bytes, protection, mmap.MAP_SHARED | _MAP_FIXED, fd, 0))
    except OSError:
        _libc.munmap(start, reserved_bytes)
        raise
    end = address + -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
    if address > start:
        _libc.munmap(start, address - start)
    if start + reserved_bytes > end:
        _libc.munmap(end, start + reserved_bytes - end)
    return address


def _checked(address: Any) -> int:
    if address == _MAP_FAILED:
        number = ctypes.get_errno()
        raise OSError(number, f"mapping shared memory failed: {os.strerror(number)}")
    return int(address)
