"""A segment is one memory for several processes, leaves nothing behind and refuses what does not fit."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from diptych.domain.errors import Bug, SpecError
from diptych.transfer import segment as segment_module
from diptych.transfer.copy import copy_blocks
from diptych.transfer.mapping import HUGE_BYTES
from diptych.transfer.segment import SharedSegment, available_bytes, touch

SIZE = 1 << 20

CHILD = """
import sys
from diptych.transfer.segment import SharedSegment
segment = SharedSegment.attach(int(sys.argv[1]), int(sys.argv[2]))
assert segment.buffer[10] == 5
segment.buffer[11] = 6
"""


@pytest.fixture
def segment() -> Iterator[SharedSegment]:
    made = SharedSegment.create(SIZE)
    yield made
    made.close()


def test_a_child_process_reads_and_writes_the_same_bytes(segment: SharedSegment) -> None:
    segment.buffer[10] = 5
    arguments = [sys.executable, "-c", CHILD, str(segment.fd), str(SIZE)]
    subprocess.run(arguments, pass_fds=(segment.fd,), check=True, timeout=60)
    assert segment.buffer[11] == 6


def test_a_new_segment_is_zero_present_and_has_no_name(segment: SharedSegment) -> None:
    assert segment.buffer[:] == bytes(SIZE)
    assert os.fstat(segment.fd).st_blocks * 512 == SIZE
    assert os.fstat(segment.fd).st_nlink == 0
    assert os.readlink(f"/proc/self/fd/{segment.fd}").endswith("(deleted)")


def test_attaching_keeps_contents(segment: SharedSegment) -> None:
    segment.buffer[:] = b"\x03" * SIZE
    other = SharedSegment.attach(os.dup(segment.fd), SIZE)
    assert other.buffer[:] == b"\x03" * SIZE
    other.close()
    other.close()


def test_more_than_the_machine_has_is_refused() -> None:
    with pytest.raises(SpecError, match=r"exceeds the .* GiB that are available; lower kv.memory_bytes"):
        SharedSegment.create(available_bytes() + (1 << 40))


def test_attaching_to_the_wrong_thing_is_refused(segment: SharedSegment, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=f"has {SIZE} bytes, {SIZE + 1} are needed"):
        SharedSegment.attach(segment.fd, SIZE + 1)
    with pytest.raises(SpecError, match="no shared segment at descriptor"):
        SharedSegment.attach(10**6, SIZE)


def test_blocks_are_copied_in_order_over_all_planes() -> None:
    planes = [torch.arange(24.0).view(4, 1, 2, 3) + 100 * i for i in range(2)]
    before = [plane.clone() for plane in planes]
    copied_bytes = copy_blocks(planes, [(0, 2), (2, 3)])
    for plane, old in zip(planes, before, strict=True):
        assert torch.equal(plane[3], old[0]) and torch.equal(plane[2], old[0])
        assert torch.equal(plane[:2], old[:2])
    assert copied_bytes == 2 * 2 * 6 * 4
    assert copy_blocks(planes, []) == 0


def test_attaching_never_writes() -> None:
    """Others write while a restarted worker attaches: a byte read and put back could undo theirs."""
    written: list[int] = []

    class Watched(bytearray):
        def __setitem__(self, key: Any, value: Any) -> None:
            written.append(key)
            super().__setitem__(key, value)

    memory = Watched(b"\x03" * SIZE)
    touch(memory, fresh=False)
    assert written == []
    touch(memory, fresh=True)
    assert written == list(range(0, SIZE, mmap.PAGESIZE))


def test_an_older_kernel_gets_the_same_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_module, "MADV_POPULATE_WRITE", 9999)
    made = SharedSegment.create(SIZE)
    assert os.fstat(made.fd).st_blocks * 512 == SIZE
    made.buffer[:] = b"\x03" * SIZE
    other = SharedSegment.attach(os.dup(made.fd), SIZE)
    assert other.buffer[:] == b"\x03" * SIZE
    other.close()
    made.close()


def test_a_view_outlives_its_segment() -> None:
    made = SharedSegment.create(SIZE)
    view = made.buffer[100:200]
    made.close()
    view[0] = 7
    assert view[0] == 7
    with pytest.raises(Bug, match="closed"):
        _ = made.buffer


def test_a_segment_begins_where_large_pages_fit_and_says_how_many_it_got() -> None:
    made = SharedSegment.create(3 * HUGE_BYTES)
    address = ctypes.addressof(ctypes.c_char.from_buffer(made.buffer))
    assert address % HUGE_BYTES == 0
    assert made.huge_bytes in range(0, 3 * HUGE_BYTES + 1, HUGE_BYTES)
    made.close()
