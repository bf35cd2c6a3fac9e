"""What head and worker say to each other, byte for byte: a 4-byte length, then one msgpack message.

    worker → head   Hello                Ready | StartupFailed          StepReport, Heartbeat …
    head → worker            Welcome                            Begin   WorkerCommand …

Both ways one Unix stream. `Begin` carries the leases that an earlier incarnation had granted; it is written
in the same breath as the orchestrator hears of the worker, so no release can slip between.
Knows: framing, the greeting, size limits, versions. Does not know: what a command means, who runs the socket.
"""

from __future__ import annotations

import hmac
import socket
from collections.abc import Iterator
from typing import Generic, TypeAlias, TypeVar

import msgspec

from diptych.adapters.build import EngineSpec
from diptych.domain.commands import WorkerCommand
from diptych.domain.errors import ClusterError
from diptych.domain.events import Heartbeat, StepReport
from diptych.domain.ids import BlockId, LeaseId, WorkerId
from diptych.domain.kv import KVLayout
from diptych.domain.worker import Arena

WIRE_VERSION = 2
"""Rises with every change of a message. Head and workers of one cluster always run the same version."""

MAX_FRAME_BYTES = 64 << 20
"""Far above the largest message (a prompt of a million tokens is 5 MB): beyond it a length is garbage."""

MAX_GREETING_BYTES = 4096
"""Before a peer has proved who it is, it may not make us buffer more than this."""

SECRET_VARIABLE = "DIPTYCH_WORKER_SECRET"
"""Environment variable with the secret of `Hello`; a command line would show it to every user of the host."""

_LENGTH_BYTES = 4


class WireError(ClusterError):
    """The other side broke the protocol; its connection is closed."""

    code = "wire_error"


class OversizedFrame(WireError):
    """A frame claims to be longer than allowed."""

    code = "wire_oversized_frame"


class MalformedFrame(WireError):
    """A frame is not one of the messages that may come now."""

    code = "wire_malformed_frame"


class VersionMismatch(WireError):
    """The peer speaks another version."""

    code = "wire_version_mismatch"


class NotExpected(WireError):
    """Nobody waits for this worker, or its secret is wrong."""

    code = "wire_not_expected"


class Hello(msgspec.Struct, frozen=True, tag="hello", kw_only=True):
    """A worker process introduces itself. ``secret`` was given to it when it was started."""

    version: int
    worker_id: WorkerId
    incarnation: int
    secret: str
    pid: int


class Welcome(msgspec.Struct, frozen=True, tag="welcome", kw_only=True):
    """All that a worker must know to start its engine."""

    engine: EngineSpec
    layout: KVLayout
    domain_blocks: int
    """Blocks of the whole segment; ``arena`` is this worker's share."""
    arena: Arena
    prompt_cache: bool
    token_budget: int
    max_running: int
    chunked_prefill: bool
    cores: tuple[int, ...]
    threads: int
    seed: int
    heartbeat_interval_s: float


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """No welcome: the connection is closed after this."""

    code: str
    message: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The engine is loaded and warm. ``description``: its own words for numerics, kernels and the like.
    ``start_s``: seconds of each stage since the greeting, in order."""

    layout: KVLayout
    description: dict[str, str] = {}
    start_s: dict[str, float] = {}


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """The cluster counts on the worker from now on. ``adopted``: blocks that stay held until released."""

    adopted: dict[LeaseId, tuple[BlockId, ...]] = {}


class StartupFailed(msgspec.Struct, frozen=True, tag="startup_failed"):
    """The engine could not be built. ``code`` is that of a `DiptychError`, or ``internal_error``."""

    code: str
    message: str


FromWorker: TypeAlias = Hello | Ready | StartupFailed | StepReport | Heartbeat
FromHead: TypeAlias = Welcome | Refused | Begin | WorkerCommand

_encoder = msgspec.msgpack.Encoder()

MessageT = TypeVar("MessageT")


def encode_frame(message: FromWorker | FromHead) -> bytes:
    """One frame. Raises `OversizedFrame` rather than send what the other side must refuse."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise OversizedFrame(f"a {type(message).__name__} of {len(body)} bytes exceeds {MAX_FRAME_BYTES}")
    return len(body).to_bytes(_LENGTH_BYTES, "little") + body


class FrameReader(Generic[MessageT]):
    """Cuts a byte stream into messages of one closed union. Sans I/O: bytes in, messages out."""

    def __init__(self, union: object, limit_bytes: int = MAX_FRAME_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._decoder = msgspec.msgpack.Decoder(union)
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[MessageT]:
        """Messages that ``data`` completes. Raises `OversizedFrame`, `MalformedFrame`.

        Lazy on purpose: a message may change what is allowed next (``limit_bytes``).
        """
        self._pending += data
        while (body := self._next_body()) is not None:
            yield self._decode(body)

    def _next_body(self) -> bytes | None:
        if len(self._pending) < _LENGTH_BYTES:
            return None
        length = int.from_bytes(self._pending[:_LENGTH_BYTES], "little")
        if length > self.limit_bytes:
            raise OversizedFrame(f"a frame of {length} bytes exceeds {self.limit_bytes}")
        end = _LENGTH_BYTES + length
        if len(self._pending) < end:
            return None
        body = bytes(self._pending[_LENGTH_BYTES:end])
        del self._pending[:end]
        return body

    def _decode(self, body: bytes) -> MessageT:
        try:
            return self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MalformedFrame(f"a frame of {len(body)} bytes is no message: {error}") from None


def head_reader() -> FrameReader[FromWorker]:
    """Reads what a worker says; strict about size until the greeting is over."""
    return FrameReader(FromWorker, MAX_GREETING_BYTES)


def worker_reader() -> FrameReader[FromHead]:
    """Reads what the head says."""
    return FrameReader(FromHead)


def check_hello(hello: Hello, worker_id: WorkerId, incarnation: int, secret: str) -> None:
    """Raises `VersionMismatch` or `NotExpected` unless ``hello`` is the worker that we started."""
    if hello.version != WIRE_VERSION:
        raise VersionMismatch(f"worker speaks wire version {hello.version}, the head {WIRE_VERSION}")
    if (hello.worker_id, hello.incarnation) != (worker_id, incarnation):
        raise NotExpected(f"nobody waits for incarnation {hello.incarnation} of {hello.worker_id!r}")
    if not hmac.compare_digest(hello.secret.encode(), secret.encode()):
        raise NotExpected(f"wrong secret for {hello.worker_id!r}")


class BlockingChannel:
    """The worker's end: a blocking socket. One thread may receive while others send, one at a time."""

    _READ_BYTES = 1 << 18

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = worker_reader()
        self._inbox: Iterator[FromHead] = iter(())

    def send(self, message: FromWorker) -> None:
        """Write one message. Raises `OSError` when the head has gone."""
        self._connection.sendall(encode_frame(message))

    def receive(self) -> FromHead | None:
        """The next message; None at the end of the stream. Raises `WireError`."""
        while True:
            message = next(self._inbox, None)
            if message is not None:
                return message
            data = self._connection.recv(self._READ_BYTES)
            if not data:
                return None
            self._inbox = self._reader.feed(data)
