"""One life of one worker: its process, its connection, its end.

    start → Hello → Welcome → (engine loads) → Ready → Begin → reports … → end

Knows: the greeting, what ends a life, that "lost" comes after every word. Does not know: restarts, decisions.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from diptych.adapters.build import EngineSpec
from diptych.domain.commands import WorkerCommand
from diptych.domain.errors import Bug
from diptych.domain.events import Heartbeat, StepReport
from diptych.domain.ids import BlockId, DomainId, LeaseId, WorkerId
from diptych.domain.kv import KVLayout
from diptych.domain.worker import WorkerInfo
from diptych.runtime.dealing import WorkerShare
from diptych.runtime.link import Listener, WorkerLink
from diptych.runtime.process import ChildProcess, describe_exit
from diptych.runtime.stages import Stages, in_words
from diptych.runtime.wire import (
    SECRET_VARIABLE,
    Begin,
    FromWorker,
    Hello,
    MalformedFrame,
    OversizedFrame,
    Ready,
    StartupFailed,
    Welcome,
    check_hello,
)

log = logging.getLogger("diptych.runtime")

STARTUP_TIMEOUT_S = 900.0
"""Loading a large model from a slow disk may take minutes; beyond this it hangs."""


class WorkerSink(Protocol):
    """Who listens to workers: the driver."""

    def now_s(self) -> float:
        """Seconds on the cluster's clock."""
        ...

    def adopted_leases(self, worker_id: WorkerId) -> Mapping[LeaseId, tuple[BlockId, ...]]:
        """Leases that a next incarnation must honour."""
        ...

    def joined(self, info: WorkerInfo, port: Incarnation) -> None:
        """An incarnation is ready."""
        ...

    def heard(self, info: WorkerInfo, report: StepReport) -> None:
        """What it did."""
        ...

    def beat(self, heartbeat: Heartbeat) -> None:
        """It lives."""
        ...

    def lost(self, worker_id: WorkerId, incarnation: int, reason: str) -> None:
        """It is dead; everything it said has been heard."""
        ...


@dataclass(frozen=True)
class Setup:
    """What all workers of one memory domain have in common."""

    engines: Mapping[str, EngineSpec]
    """By pool."""
    layout: KVLayout
    domain_id: DomainId
    domain_blocks: int
    kv_fd: int
    weights_fds: Mapping[str, int]
    """By pool, for engines whose workers share their weights."""
    prompt_cache: bool
    seed: int
    heartbeat_interval_s: float


@dataclass(frozen=True)
class Ending:
    """How a life ended. ``ready_at_s`` is None when it never got ready."""

    reason: str
    ready_at_s: float | None
    startup_error: StartupFailed | None
    tail: tuple[str, ...]

    @property
    def why(self) -> str:
        """What its engine said, or else what its process did."""
        return self.reason if self.startup_error is None else self.startup_error.message


class Incarnation:
    """Owns one child process and the link to it; a `WorkerPort` once it has joined."""

    def __init__(
        self, number: int, share: WorkerShare, setup: Setup, listener: Listener, sink: WorkerSink
    ) -> None:
        self.number = number
        self.description: dict[str, str] = {}
        """What the engine says of itself, once ready."""
        self.start_s: dict[str, float] = {}
        """Seconds of each stage of its start, once ready."""
        self._share = share
        self._setup = setup
        self._listener = listener
        self._sink = sink
        self._secret = secrets.token_hex(32)
        self._process: ChildProcess | None = None
        self._link: WorkerLink | None = None
        self._link_closed = asyncio.Event()
        self._ready_at_s: float | None = None
        self._startup_error: StartupFailed | None = None
        self._why: str | None = None
        self._unwanted = False
        self._stages = Stages(sink.now_s)
        self._timeout: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------ life

    async def live(self) -> Ending:
        """Start the process and wait for its end. The sink has heard everything when this returns.

        Raises:
            OSError: the process could not be started.
        """
        self._listener.expect(self._share.worker_id, self._greet)
        self._process = await ChildProcess.start(self._argv(), self._env(), self._fds(), self._log)
        self._timeout = asyncio.get_running_loop().call_later(
            STARTUP_TIMEOUT_S, self.kill, "no start in time"
        )
        if self._unwanted:
            self._process.kill()
        try:
            status = await self._process.wait()
            if self._link is not None:
                await self._link_closed.wait()
        finally:
            self._timeout.cancel()
            self._process.kill()
            self._listener.forget(self._share.worker_id)
        return self._end(status)

    @property
    def pid(self) -> int | None:
        """Process id, once started."""
        return self._process.pid if self._process is not None else None

    @property
    def ready(self) -> bool:
        """Whether it has joined."""
        return self._ready_at_s is not None

    def terminate(self) -> None:
        """Ask the process to end. One that is only about to start is ended at once."""
        self._unwanted = True
        if self._process is not None:
            self._process.terminate()

    def _end(self, status: int) -> Ending:
        reason = self._why or describe_exit(status)
        if self._ready_at_s is not None:
            self._sink.lost(self._share.worker_id, self.number, reason)
        tail = self._process.tail if self._process is not None else ()
        return Ending(reason, self._ready_at_s, self._startup_error, tail)

    # ------------------------------------------------------------ WorkerPort

    def send(self, command: WorkerCommand) -> None:
        """Queue a command. A worker that does not read, or an order too long to send, ends the worker: what
        was ordered must happen or the worker must be gone."""
        self._send(command)

    def kill(self, reason: str) -> None:
        """End the process for certain (SIGKILL)."""
        self._unwanted = True
        if self._why is None:
            self._why = reason
            log.warning("ending %s (incarnation %d): %s", self._share.worker_id, self.number, reason)
        if self._process is not None:
            self._process.kill()

    # ------------------------------------------------------------ LinkOwner

    def heard(self, message: FromWorker) -> None:
        """One message after the greeting. Raises `MalformedFrame` when it may not come now."""
        info = self._info()
        match message:
            case StepReport() if self.ready:
                self._sink.heard(info, message)
            case Heartbeat(info.worker_id, info.incarnation) if self.ready:
                self._sink.beat(message)
            case Ready() if not self.ready:
                self._begin(message)
            case StartupFailed() if not self.ready:
                self._startup_error = message
            case _:
                raise MalformedFrame(f"an unexpected {type(message).__name__} from {info.worker_id}")

    def link_closed(self, reason: str) -> None:
        """Nothing more will come. A process without its link is of no use to anybody."""
        if self._process is not None:
            self._process.kill()
        if self._why is None and reason:
            log.debug("the link of %s has closed: %s", self._share.worker_id, reason)
        self._link_closed.set()

    # ------------------------------------------------------------ greeting

    def _greet(self, hello: Hello, link: WorkerLink) -> Incarnation:
        check_hello(hello, self._share.worker_id, self.number, self._secret)
        self._link = link
        self._stages.reached("process")
        self._send(self._welcome())
        return self

    def _begin(self, ready: Ready) -> None:
        """`Begin` is written before the core hears of the worker: whatever it orders comes after."""
        if ready.layout != self._setup.layout:
            why = f"the engine's KV layout {ready.layout} is not {self._setup.layout}"
            self._startup_error = StartupFailed(Bug.code, why)
            raise MalformedFrame(why)
        if self._timeout is not None:
            self._timeout.cancel()
        self.description = ready.description
        self.start_s = self._stages.seconds | ready.start_s
        self._log.info("ready: %s", in_words(self.start_s))
        self._ready_at_s = self._sink.now_s()
        self._send(Begin(dict(self._sink.adopted_leases(self._share.worker_id))))
        self._sink.joined(self._info(), self)

    def _send(self, message: WorkerCommand | Welcome | Begin) -> None:
        try:
            sent = self._link is not None and self._link.send(message)
        except OversizedFrame as error:
            self.kill(str(error))
            return
        if not sent:
            self.kill("does not read its commands")

    def _welcome(self) -> Welcome:
        share, setup = self._share, self._setup
        return Welcome(
            engine=setup.engines[share.pool.name],
            layout=setup.layout,
            domain_blocks=setup.domain_blocks,
            arena=share.arena,
            prompt_cache=setup.prompt_cache,
            token_budget=share.pool.token_budget,
            max_running=share.pool.max_running,
            chunked_prefill=share.pool.chunked_prefill,
            cores=share.cores,
            threads=share.threads,
            seed=setup.seed,
            heartbeat_interval_s=setup.heartbeat_interval_s,
        )

    def _info(self) -> WorkerInfo:
        share, setup = self._share, self._setup
        return WorkerInfo(
            worker_id=share.worker_id,
            incarnation=self.number,
            pool=share.pool.name,
            role=share.pool.role,
            # What nobody else can read is a domain of one: no other worker is ever told to borrow from it.
            domain_id=DomainId(share.worker_id) if share.pool.own_kv_memory else setup.domain_id,
            arena=share.arena,
            block_tokens=setup.layout.block_tokens,
            block_bytes=setup.layout.block_bytes,
            token_budget=share.pool.token_budget,
            max_running=share.pool.max_running,
            cores=share.cores,
        )

    # ------------------------------------------------------------ process

    @property
    def _log(self) -> logging.Logger:
        return logging.getLogger(f"diptych.worker.{self._share.worker_id}")

    def _fds(self) -> list[int]:
        weights_fd = self._setup.weights_fds.get(self._share.pool.name)
        return [self._setup.kv_fd, *([weights_fd] if weights_fd is not None else [])]

    def _argv(self) -> list[str]:
        options = {
            "--socket": str(self._listener.path),
            "--worker-id": self._share.worker_id,
            "--incarnation": str(self.number),
            **dict(zip(("--kv-fd", "--weights-fd"), map(str, self._fds()), strict=False)),
            "--parent-pid": str(os.getpid()),
        }
        module = [sys.executable, "-m", "diptych.runtime.worker_main"]
        return module + [word for option in options.items() for word in option]

    def _env(self) -> dict[str, str]:
        """Ours, the secret, and what must be known before libraries load: threads, and huge pages for malloc
        (3 to 16 % of decode time on CPUs)."""
        return {
            "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
            **os.environ,
            "OMP_NUM_THREADS": str(self._share.threads),
            SECRET_VARIABLE: self._secret,
        }
