"""A running cluster on this host, as one object: start it, use its front end, close it.

    async with Cluster(spec) as cluster:
        stream = cluster.frontend.submit(request, received_s)

Knows: how the parts are put together, and what "ready" waits for. Does not know: HTTP, text, decisions.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from diptych.domain.clock import Clock
from diptych.domain.cluster import ClusterSpec
from diptych.domain.errors import Bug, DiptychError
from diptych.domain.ids import DomainId, RequestId, WorkerId
from diptych.domain.lifecycle import State
from diptych.domain.report import Moment, RequestReport
from diptych.metrics.snapshot import ClusterSnapshot
from diptych.orchestration.core import Orchestrator
from diptych.orchestration.snapshot import Snapshot
from diptych.performance.model_shape import ModelShape
from diptych.runtime.clock import MonotonicClock
from diptych.runtime.costs import cost_model
from diptych.runtime.dealing import WorkerShare, deal
from diptych.runtime.driver import Driver, Journal
from diptych.runtime.engines import EngineChoice, EngineName, choose_engine
from diptych.runtime.incarnation import Setup
from diptych.runtime.link import Listener
from diptych.runtime.probe import probe
from diptych.runtime.stages import Stages
from diptych.runtime.supervisor import Slot, StartupError, Supervisor
from diptych.runtime.topology import Topology, place_of, snapshot_of
from diptych.runtime.weights import WeightsFiles
from diptych.transfer.segment import SharedSegment

log = logging.getLogger("diptych.runtime")

DOMAIN = DomainId("host")
"""One host is one memory domain."""

PROBE_PAUSE_S = 1.0
"""Between a probe that failed and the next."""

DRAIN_POLL_S = 0.05

Progress = Callable[[str], None]
"""Told in words what the start is waiting for."""


class Cluster:
    """Workers, shared KV memory, orchestrator and driver. All its methods belong to one event loop."""

    def __init__(
        self,
        spec: ClusterSpec,
        *,
        engine: EngineName = "native",
        progress: Progress | None = None,
        journal: Journal | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Read the model's shape and deal out memory and cores; nothing is started yet.

        Raises:
            SpecError: the model directory or the spec is wrong.
        """
        self.spec = spec
        self.choice: EngineChoice = choose_engine(spec, engine)
        self.shares: tuple[WorkerShare, ...] = deal(
            spec, self.choice.layout, usable_cores(), self.choice.arena_blocks
        )
        self._progress: Progress = progress or (lambda _: None)
        self._orchestrator = Orchestrator(
            spec.limits,
            cost_model(spec, self.shares),
            max_model_tokens=self.choice.max_model_tokens,
            slo=spec.slo,
        )
        self.driver = Driver(self._orchestrator, clock or MonotonicClock(), journal)
        self.driver.on_change(self._on_change)
        self._changed = asyncio.Event()
        self._failed = asyncio.Event()
        self._error: DiptychError | None = None
        self._closing = asyncio.Lock()
        self._host: _Host | None = None
        self._start_s: dict[str, float] = {}
        self._prober: asyncio.Task[None] | None = None

    # ------------------------------------------------------------ what it is

    @property
    def frontend(self) -> Front:
        """Where requests go in, and the figures that a server shows."""
        return Front(self.driver, self.snapshot)

    @property
    def model_shape(self) -> ModelShape:
        """Shape of the served model."""
        return self.choice.shape

    @property
    def model_dir(self) -> Path:
        """The model's directory (config, tokenizer, weights)."""
        return self.choice.model_dir

    @property
    def max_model_tokens(self) -> int:
        """Longest prompt plus output."""
        return self.choice.max_model_tokens

    @property
    def restart_counts(self) -> dict[WorkerId, int]:
        """How often each worker was started again."""
        return {slot.share.worker_id: slot.restarts for slot in self._slots}

    @property
    def socket_path(self) -> Path:
        """Where workers connect. Only while the cluster runs."""
        if self._host is None:
            raise Bug("the cluster does not run")
        return self._host.listener.path

    def pid(self, worker_id: WorkerId) -> int | None:
        """Process id of a worker that runs now."""
        running = {slot.share.worker_id: slot.incarnation for slot in self._slots}
        incarnation = running.get(worker_id)
        return incarnation.pid if incarnation is not None else None

    def report(self, request_id: RequestId) -> RequestReport | None:
        """The report of a request that ended lately."""
        return self.driver.requests.report(request_id)

    def snapshot(self) -> ClusterSnapshot:
        """Load and state of all workers and requests now."""
        layout, seen = self.choice.layout, self._orchestrator.snapshot()
        return ClusterSnapshot(
            workers=tuple(
                snapshot_of(slot, layout, self.driver.stats(slot.share.worker_id)) for slot in self._slots
            ),
            waiting_requests=seen.requests.get(State.QUEUED, 0),
            waiting_tokens=seen.queued_tokens,
            running_requests=sum(count for state, count in seen.requests.items() if state != State.QUEUED),
            bounces_total=self.driver.bounces,
        )

    def orchestration(self) -> Snapshot:
        """What the orchestrator holds now: states of requests, attempts, leases."""
        return self._orchestrator.snapshot()

    def topology(self) -> Topology:
        """Who runs where, for people: banner and dashboard."""
        layout, blocks = self.choice.layout, self._domain_blocks
        return Topology(
            model_dir=str(self.choice.model_dir),
            engine=self.choice.name,
            domain_id=DOMAIN,
            domain_bytes=layout.segment_bytes(blocks),
            block_tokens=layout.block_tokens,
            block_bytes=layout.block_bytes,
            kv_dtype=layout.dtype,
            kv_tokens=blocks * layout.block_tokens,
            domain_huge_bytes=self._host.segment.huge_bytes if self._host is not None else 0,
            max_model_tokens=self.choice.max_model_tokens,
            workers=tuple(place_of(slot, layout) for slot in self._slots),
            start_s=self._start_s,
        )

    # ------------------------------------------------------------ life

    async def __aenter__(self) -> Cluster:
        """Start; returns when the first probe has gone through prefill and decode.

        Raises:
            SpecError: the model directory is wrong.
            StartupError: a worker does not start, or the probe failed.
        """
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()

    async def drain(self, timeout_s: float) -> bool:
        """Wait until no request is live, at most so long. Whether that came true."""
        deadline_s = self.driver.now_s() + timeout_s
        while len(self.driver.requests) and self.driver.now_s() < deadline_s:
            await asyncio.sleep(DRAIN_POLL_S)
        return not len(self.driver.requests)

    async def failed(self) -> DiptychError:
        """Wait until the cluster can't serve any more (if all is well: for ever), and say why."""
        await self._failed.wait()
        assert self._error is not None
        return self._error

    async def close(self) -> None:
        """End all requests and all workers, and free the memory. May be called twice, also at once."""
        self.driver.close()
        async with self._closing:
            if self._prober is not None:
                self._prober.cancel()
                self._prober = None
            if self._host is not None:
                host, self._host = self._host, None
                await host.close()

    # ------------------------------------------------------------ start

    async def _start(self) -> None:
        stages = Stages(self.driver.now_s)
        self._progress("touching the KV memory")
        self._host = await _Host.open(self.choice.layout.segment_bytes(self._domain_blocks), self.choice)
        stages.reached("kv_memory")
        self._host.supervisor = Supervisor(
            self._setup(self._host), self.spec.limits, self._host.listener, self.driver, self._give_up
        )
        self._host.supervisor.start(self.shares)
        await self._until_all_joined()
        stages.reached("workers")
        self._progress("probing prefill and decode")
        report = await self._probe()
        if report.state is not State.FINISHED:
            raise StartupError(f"the first request failed: {report.error_message} ({report.error_code})")
        stages.reached("first_token", report.moments.get(Moment.FIRST_TOKEN))
        self._start_s = stages.seconds
        self._prober = asyncio.create_task(self._keep_proven(), name="diptych probe")

    async def _until_all_joined(self) -> None:
        told = 0
        while told < len(self.shares):
            await self._changed.wait()
            self._changed.clear()
            if self._error is not None:
                raise self._error
            joined = self.driver.workers()
            if len(joined) != told:
                told = len(joined)
                names = ", ".join(info.worker_id for info in joined)
                self._progress(f"{told} of {len(self.shares)} workers ready: {names}")

    async def _keep_proven(self) -> None:
        """Probe again when workers have come back after there were none."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self.driver.workers() and not self.driver.proven:
                report = await self._probe()
                if report.state is not State.FINISHED:
                    log.warning("a probe failed: %s (%s)", report.error_message, report.error_code)
                    await asyncio.sleep(PROBE_PAUSE_S)

    async def _probe(self) -> RequestReport:
        report = await probe(self.driver, self.model_shape.vocab, self.choice.layout.block_tokens)
        if report.state is State.FINISHED:
            self.driver.mark_proven()
        return report

    def _on_change(self) -> None:
        if self.driver.fatal is not None:
            self._give_up(self.driver.fatal)
        self._changed.set()

    def _give_up(self, error: DiptychError) -> None:
        self._error = self._error or error
        self._failed.set()
        self._changed.set()

    # ------------------------------------------------------------ parts

    @property
    def _slots(self) -> list[Slot]:
        supervisor = self._host.supervisor if self._host is not None else None
        return supervisor.slots if supervisor is not None else []

    @property
    def _domain_blocks(self) -> int:
        """Blocks of the shared segment. At least one: nothing cannot be mapped."""
        return max(1, sum(share.arena.blocks for share in self.shares if not share.pool.own_kv_memory))

    def _setup(self, host: _Host) -> Setup:
        return Setup(
            engines=self.choice.engines,
            layout=self.choice.layout,
            domain_id=DOMAIN,
            domain_blocks=self._domain_blocks,
            kv_fd=host.segment.fd,
            weights_fds=host.weights.by_pool,
            prompt_cache=self.spec.kv.prompt_cache,
            seed=self.spec.seed,
            heartbeat_interval_s=self.spec.limits.heartbeat_interval_s,
        )


class Front:
    """A `Frontend` that also tells how the cluster fares: all that a server needs."""

    def __init__(self, driver: Driver, snapshot: Callable[[], ClusterSnapshot]) -> None:
        self.now_s = driver.now_s
        self.submit = driver.submit
        self.stop = driver.stop
        self.abort = driver.abort
        self.ready = driver.ready
        self.snapshot = snapshot


class _Host:
    """What must be given back at the close: directory, socket, memory, processes."""

    def __init__(
        self, directory: Path, listener: Listener, segment: SharedSegment, weights: WeightsFiles
    ) -> None:
        self.directory = directory
        self.listener = listener
        self.segment = segment
        self.weights = weights
        self.supervisor: Supervisor | None = None

    @classmethod
    async def open(cls, segment_bytes: int, choice: EngineChoice) -> _Host:
        segment = await asyncio.to_thread(SharedSegment.create, segment_bytes)
        directory = Path(tempfile.mkdtemp(prefix="diptych-"))  # mode 0700: only we may enter
        listener = Listener(directory)
        host = cls(directory, listener, segment, WeightsFiles(choice.engines))
        try:
            await listener.start()
        except OSError:
            await host.close()
            raise
        return host

    async def close(self) -> None:
        """Processes first: nobody may write into memory that is gone."""
        if self.supervisor is not None:
            await self.supervisor.close()
        self.listener.close()
        self.segment.close()
        self.weights.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def usable_cores() -> tuple[int, ...]:
    """Cores that this process may run on, in order."""
    return tuple(sorted(os.sched_getaffinity(0)))
