"""A sealed file is written once, whoever dies meanwhile, and never changes afterwards."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from diptych.transfer.sealed import (
    ALIGNMENT_BYTES,
    Appender,
    DamagedFile,
    create_unsealed,
    fill_once,
    is_sealed,
    map_sealed,
)

CHILD = """
import sys, time
from diptych.transfer.sealed import fill_once, map_sealed

def fill(appender):
    appender.append(memoryview(b"half"))
    print("began", flush=True)
    if sys.argv[2] == "hang":
        time.sleep(60)
    return sys.argv[2].encode()

print("filled" if fill_once(int(sys.argv[1]), fill) else "found", flush=True)
print(map_sealed(int(sys.argv[1]))[1].decode(), flush=True)
"""

WRITER = """
import ctypes, sys
from diptych.transfer.sealed import map_sealed
mapping, _ = map_sealed(int(sys.argv[1]))
ctypes.memset(ctypes.addressof(mapping.buffer.obj), 0, 1)
"""


@pytest.fixture
def fd() -> Iterator[int]:
    made = create_unsealed("diptych-test")
    yield made
    os.close(made)


def filler(*pieces: bytes, index: bytes = b"index") -> Callable[[Appender], bytes]:
    def fill(appender: Appender) -> bytes:
        for piece in pieces:
            appender.append(memoryview(piece))
        return index

    return fill


def child(fd: int, word: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", CHILD, str(fd), word]
    return subprocess.Popen(arguments, pass_fds=(fd,), stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> list[str]:
    output, _ = process.communicate(timeout=60)
    return output.split()


def test_the_first_one_fills_and_the_next_ones_find(fd: int) -> None:
    places: list[int] = []

    def fill(appender: Appender) -> bytes:
        places.extend(appender.append(memoryview(piece)) for piece in (b"one", b"two" * 100, b""))
        return b"index"

    assert not is_sealed(fd)
    assert fill_once(fd, fill)
    assert is_sealed(fd)
    assert not fill_once(fd, fill) and len(places) == 3
    mapping, index = map_sealed(fd)
    assert index == b"index"
    assert bytes(mapping.buffer[places[0] : places[0] + 3]) == b"one"
    assert bytes(mapping.buffer[places[1] : places[1] + 300]) == b"two" * 100
    assert all(place % ALIGNMENT_BYTES == 0 for place in places)


def test_nobody_can_change_what_is_sealed(fd: int) -> None:
    fill_once(fd, filler(b"data"))
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    mapping, _ = map_sealed(fd)
    assert mapping.buffer.readonly
    with pytest.raises(TypeError):
        mapping.buffer[0] = 1
    address = ctypes.addressof(mapping.buffer.obj)  # type: ignore[arg-type]
    with open("/proc/self/maps", encoding="utf-8") as lines:
        (line,) = (line for line in lines if line.startswith(f"{address:x}-"))
    assert line.split()[1] == "r--s"


def test_a_write_through_the_mapping_ends_the_writer(fd: int) -> None:
    fill_once(fd, filler(b"data"))
    done = subprocess.run([sys.executable, "-c", WRITER, str(fd)], pass_fds=(fd,), check=False, timeout=60)
    assert done.returncode == -signal.SIGSEGV


def test_who_comes_at_the_same_time_waits(fd: int) -> None:
    words = sorted(said(process)[-2] for process in [child(fd, "same") for _ in range(3)])
    assert words == ["filled", "found", "found"]


def test_when_the_writer_is_killed_the_one_who_waits_writes_anew(fd: int) -> None:
    writer = child(fd, "hang")
    assert writer.stdout is not None and writer.stdout.readline() == "began\n"
    waiting = child(fd, "anew")
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(timeout=0.5)
    writer.kill()
    writer.communicate()
    assert said(waiting) == ["began", "filled", "anew"]
    assert said(child(fd, "late")) == ["found", "anew"]


def test_after_a_writer_that_failed_the_next_one_begins_at_the_start(fd: int) -> None:
    def fail(appender: Appender) -> bytes:
        appender.append(memoryview(b"x" * 10_000))
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        fill_once(fd, fail)
    assert not is_sealed(fd)
    assert fill_once(fd, filler(b"data"))
    assert os.fstat(fd).st_size < 10_000


def test_what_is_not_complete_is_not_mapped(fd: int) -> None:
    with pytest.raises(DamagedFile, match="not complete"):
        map_sealed(fd)


@pytest.mark.parametrize(
    ("place", "what"), [(0, "header"), (ALIGNMENT_BYTES + 1, "index")], ids=["header", "index"]
)
def test_damage_is_told(fd: int, place: int, what: str) -> None:
    fill_once(fd, filler())
    with_damage = create_unsealed("diptych-test")
    content = bytearray(os.pread(fd, os.fstat(fd).st_size, 0))
    content[place] ^= 1
    os.pwrite(with_damage, content, 0)
    seal(with_damage)
    with pytest.raises(DamagedFile, match=what):
        map_sealed(with_damage)
    os.close(with_damage)


def test_a_file_without_a_header_is_damaged(fd: int) -> None:
    seal(fd)
    with pytest.raises(DamagedFile, match="no header"):
        map_sealed(fd)


def seal(fd: int) -> None:
    import fcntl

    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)


def test_the_memory_goes_with_its_last_user(fd: int) -> None:
    fill_once(fd, filler(b"x" * (1 << 20)))
    mapping, _ = map_sealed(fd)
    view = mapping.buffer[ALIGNMENT_BYTES : ALIGNMENT_BYTES + 10]
    del mapping
    assert bytes(view) == b"x" * 10
    assert "diptych-test" in maps()
    del view
    assert "diptych-test" not in maps()


def maps() -> str:
    with open("/proc/self/maps", encoding="utf-8") as lines:
        return lines.read()
