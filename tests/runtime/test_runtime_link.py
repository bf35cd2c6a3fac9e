"""Strangers at the door: whatever they send, the head closes their connection and goes on."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from diptych.domain.commands import DropWork
from diptych.domain.events import Heartbeat
from diptych.domain.ids import RequestId, WorkerId
from diptych.domain.worker import WorkerStats
from diptych.runtime.link import MAX_OUTGOING_BYTES, Listener, WorkerLink
from diptych.runtime.wire import (
    MAX_GREETING_BYTES,
    WIRE_VERSION,
    FromHead,
    FromWorker,
    Hello,
    Refused,
    StartupFailed,
    check_hello,
    encode_frame,
    worker_reader,
)

WID = WorkerId("w")
BEAT = Heartbeat(WID, 1, WorkerStats())


class Owner:
    """Remembers what it hears."""

    def __init__(self) -> None:
        self.messages: list[FromWorker] = []
        self.closed = asyncio.Event()
        self.link: WorkerLink | None = None

    def greet(self, hello: Hello, link: WorkerLink) -> Owner:
        check_hello(hello, WID, 1, "secret")
        self.link = link
        return self

    def heard(self, message: FromWorker) -> None:
        self.messages.append(message)

    def link_closed(self, reason: str) -> None:
        self.closed.set()


@pytest.fixture
async def owner() -> Owner:
    return Owner()


@pytest.fixture
async def listener(owner: Owner) -> AsyncIterator[Listener]:
    with tempfile.TemporaryDirectory() as directory:
        listener = Listener(Path(directory))
        await listener.start()
        listener.expect(WID, owner.greet)
        yield listener
        listener.close()


def _hello(version: int = WIRE_VERSION, secret: str = "secret") -> bytes:
    return encode_frame(Hello(version=version, worker_id=WID, incarnation=1, secret=secret, pid=1))


async def _say(listener: Listener, data: bytes) -> list[FromHead]:
    """Connect, send, and read all answers until the head hangs up."""
    reader, writer = await asyncio.open_unix_connection(str(listener.path))
    writer.write(data)
    answers = list(worker_reader().feed(await reader.read()))
    writer.close()
    return answers


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (_hello(version=WIRE_VERSION + 1), "wire_version_mismatch"),
        (_hello(secret="guess"), "wire_not_expected"),
        (encode_frame(BEAT), "wire_malformed_frame"),
        (b"GET / HTTP/1.1\r\n\r\n", "wire_oversized_frame"),
        ((MAX_GREETING_BYTES + 1).to_bytes(4, "little"), "wire_oversized_frame"),
        (b"\x04\x00\x00\x00abcd", "wire_malformed_frame"),
    ],
)
async def test_a_stranger_is_refused_and_the_worker_still_let_in(
    listener: Listener, owner: Owner, data: bytes, code: str
) -> None:
    (refused,) = await _say(listener, data)
    assert isinstance(refused, Refused) and refused.code == code
    _, writer = await asyncio.open_unix_connection(str(listener.path))
    writer.write(_hello() + encode_frame(BEAT))
    writer.close()
    await owner.closed.wait()
    assert owner.messages == [BEAT]


async def test_a_second_worker_of_the_same_name_is_refused(listener: Listener) -> None:
    _, writer = await asyncio.open_unix_connection(str(listener.path))
    writer.write(_hello())
    (refused,) = await _say(listener, _hello())
    assert isinstance(refused, Refused) and refused.code == "wire_not_expected"
    writer.close()


async def test_all_that_was_said_is_heard_before_the_end(listener: Listener, owner: Owner) -> None:
    _, writer = await asyncio.open_unix_connection(str(listener.path))
    writer.write(_hello() + encode_frame(BEAT) * 2000 + encode_frame(BEAT)[:5])
    writer.close()
    await owner.closed.wait()
    assert owner.messages == [BEAT] * 2000


async def test_garbage_after_the_greeting_ends_the_link(listener: Listener, owner: Owner) -> None:
    answers = await _say(listener, _hello() + encode_frame(BEAT) + b"\xff" * 100)
    assert [type(answer) for answer in answers] == [Refused]
    await owner.closed.wait()
    assert owner.messages == [BEAT]


async def test_larger_frames_are_let_through_after_the_greeting(listener: Listener, owner: Owner) -> None:
    large = StartupFailed("code", "x" * (3 * MAX_GREETING_BYTES))
    _, writer = await asyncio.open_unix_connection(str(listener.path))
    writer.write(_hello() + encode_frame(large))
    writer.close()
    await owner.closed.wait()
    assert owner.messages == [large]


async def test_a_worker_that_does_not_read_is_noticed_and_costs_bounded_memory(
    listener: Listener, owner: Owner
) -> None:
    _, writer = await asyncio.open_unix_connection(str(listener.path))
    writer.write(_hello() + encode_frame(BEAT))
    while not owner.messages:
        await asyncio.sleep(0.001)
    assert owner.link is not None
    order = DropWork(RequestId("x" * (1 << 20)), 1)
    taken = 0
    while owner.link.send(order) and taken < 1000:
        taken += 1
    assert taken <= (MAX_OUTGOING_BYTES >> 20) + 2
    owner.link.close("test")
    writer.close()
    await owner.closed.wait()


async def test_a_closed_link_takes_nothing(listener: Listener, owner: Owner) -> None:
    _, writer = await asyncio.open_unix_connection(str(listener.path))
    writer.write(_hello())
    writer.close()
    await owner.closed.wait()
    assert owner.link is not None
    assert not owner.link.send(DropWork(RequestId("r"), 1))
