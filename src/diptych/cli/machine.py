"""What this machine offers, read from the operating system.

Knows: processor flags, cores, memory, shared memory, ports. Does not know: what diptych makes of it.
"""

from __future__ import annotations

import mmap
import os
import socket
from contextlib import closing
from pathlib import Path

PROBE_BYTES = 1 << 20


def cpu_model() -> str:
    """Name of the processor as the kernel tells it."""
    return _cpuinfo("model name") or "unknown"


def cpu_flags() -> frozenset[str]:
    """Instruction set flags (x86) or features (Arm); empty if the kernel does not tell."""
    return frozenset((_cpuinfo("flags") or _cpuinfo("Features") or "").split())


def cores() -> tuple[int, ...]:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def memory_bytes() -> tuple[int, int]:
    """(total, available) main memory; zeros if the kernel does not tell."""
    fields: dict[str, int] = {}
    for line in _lines(Path("/proc/meminfo")):
        name, _, rest = line.partition(":")
        fields[name] = int(rest.split()[0]) * 1024 if rest.split() else 0
    return fields.get("MemTotal", 0), fields.get("MemAvailable", 0)


def shared_memory_error() -> str | None:
    """Why anonymous shared memory (a memfd) cannot be made, mapped and written; None if it can."""
    if not hasattr(os, "memfd_create"):
        return "the operating system has no memfd_create (Linux 3.17 or newer has)"
    try:
        handle = os.memfd_create("diptych-probe")
    except OSError as error:
        return f"memfd_create failed: {error.strerror}"
    try:
        os.ftruncate(handle, PROBE_BYTES)
        with mmap.mmap(handle, PROBE_BYTES) as view:
            view[-1] = 1
    except OSError as error:
        return f"mapping shared memory failed: {error.strerror}"
    finally:
        os.close(handle)
    return None


def huge_pages() -> dict[str, str]:
    """When the kernel gives large pages to private and to shared memory, in its words; empty if it does not
    tell."""
    folder = Path("/sys/kernel/mm/transparent_hugepage")
    found = {
        kind: line.partition("[")[2].partition("]")[0]
        for kind, file in (("private", "enabled"), ("shared", "shmem_enabled"))
        for line in _lines(folder / file)
    }
    return {kind: word for kind, word in found.items() if word}


def port_error(host: str, port: int) -> str | None:
    """Why nobody can listen there; None if it is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def _cpuinfo(field: str) -> str | None:
    for line in _lines(Path("/proc/cpuinfo")):
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
