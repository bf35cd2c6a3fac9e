"""A spec and a workload in, what would happen out.

Knows: how the parts of a simulation fit together, the result's form. Does not know: policies, how time
advances.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf

import msgspec

from diptych.domain.cluster import ClusterSpec, LimitsSpec, SloSpec
from diptych.domain.ids import WorkerId
from diptych.domain.lifecycle import State
from diptych.domain.report import HandoffKind, Moment, RequestReport
from diptych.orchestration.core import Orchestrator
from diptych.performance.steps import StepModel
from diptych.planning.consumption import consumption
from diptych.planning.driver import Delays, Journal, VirtualDriver
from diptych.planning.faults import ColdStart, Fault, Kill, Slow, SlowLink, check_faults
from diptych.planning.fleet import Fleet, Member, build_fleet
from diptych.planning.host import Host
from diptych.planning.link import VirtualLink
from diptych.planning.measure import Buckets, Samples, Summary
from diptych.planning.placement_cost import placement_cost
from diptych.planning.requests import request_maker
from diptych.planning.worker import VirtualWorker
from diptych.scheduling import Scheduler
from diptych.workload.record import Arrival, Workload


class PoolResult(msgspec.Struct, frozen=True, kw_only=True):
    """One pool over the whole run."""

    workers: int
    utilisation: float
    """Busy share of its workers' time."""
    busy_s: float
    prefill_s: float
    decode_s: float
    kv_peak_fraction: float
    """The fullest worker's held blocks at its fullest moment."""
    energy_j: float | None = None
    """None: the power of its hardware is not known."""
    cost: float | None = None
    """Money for the run; None: no price is known."""


class HandoffResult(msgspec.Struct, frozen=True, kw_only=True):
    """All handoffs. ``exposed_s``: from the end of prefill until decode may start."""

    count: int
    bytes: int
    exposed_s: Summary


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a run. Times in seconds of the run's clock; None where it never came so far."""

    number: int
    state: str
    arrival_s: float
    first_token_s: float | None = None
    last_token_s: float | None = None
    ended_s: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    prefill_worker: str | None = None
    decode_worker: str | None = None
    decode_wait_s: float | None = None
    """From arrival until decode memory was set aside (split pairs)."""
    handoff_s: float = 0.0
    error: str | None = None


class SimulationResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a run showed. Times in seconds; definitions as of the client's metrics."""

    requests: int
    completed: int
    rejected: int
    failed: int
    ttft_s: Summary
    tpot_s: Summary
    itl_s: Summary
    e2e_s: Summary
    goodput_rps: float
    slo_attainment: float
    output_tokens_per_s: float
    makespan_s: float
    pools: dict[str, PoolResult]
    prefix_hit_tokens: int
    prompt_tokens: int
    handoff: HandoffResult
    link_utilisation: float | None
    events: int
    wall_s: float
    records: tuple[RequestRecord, ...] = ()


class Recorder:
    """Hears how every request ended; keeps sums, and the records if they are wanted."""

    def __init__(self, slo: SloSpec, keep: bool) -> None:
        self._slo = slo
        self._keep = keep
        self.itl = Buckets()
        self.records: list[RequestRecord] = []
        self.requests = self.completed = self.rejected = self.failed = self.met = 0
        self.output_tokens = self.prompt_tokens = self.hit_tokens = self.handoffs = self.handoff_bytes = 0
        self.first_s = inf
        self.last_s = 0.0
        self._ttft, self._tpot, self._e2e, self._exposed = Samples(), Samples(), Samples(), Samples()

    def ended(self, arrival: Arrival, report: RequestReport, now_s: float) -> None:
        """See `Audience`."""
        self.requests += 1
        moments = report.moments
        arrived_s = moments.get(Moment.RECEIVED, now_s)
        self.first_s = min(self.first_s, arrived_s)
        self.last_s = max(self.last_s, now_s)
        if report.state is State.FINISHED:
            self._finished(arrival, report, arrived_s)
        elif report.state is State.REJECTED:
            self.rejected += 1
        else:
            self.failed += 1
        if self._keep:
            self.records.append(_record(arrival, report, arrived_s, now_s))

    def _finished(self, arrival: Arrival, report: RequestReport, arrived_s: float) -> None:
        first_s, last_s = report.moments[Moment.FIRST_TOKEN], report.moments[Moment.LAST_TOKEN]
        tokens = arrival.output_tokens
        ttft_s = first_s - arrived_s
        self.completed += 1
        self.output_tokens += tokens
        self.prompt_tokens += arrival.input_tokens
        self.hit_tokens += report.cached_tokens
        self._ttft.add(ttft_s)
        self._e2e.add(last_s - arrived_s)
        good = self._slo.ttft_s is None or ttft_s <= self._slo.ttft_s
        if tokens > 1:
            tpot_s = (last_s - first_s) / (tokens - 1)
            self._tpot.add(tpot_s)
            good = good and (self._slo.tpot_s is None or tpot_s <= self._slo.tpot_s)
        self.met += good
        handoff = report.handoff
        if handoff.kind is not HandoffKind.NONE:
            self.handoffs += 1
            self.handoff_bytes += handoff.bytes_streamed + handoff.bytes_lent + handoff.bytes_copied
            self._exposed.add(handoff.handoff_s)

    def summaries(self) -> tuple[Summary, Summary, Summary, Summary]:
        """TTFT, TPOT, e2e, exposed handoff."""
        return self._ttft.summary(), self._tpot.summary(), self._e2e.summary(), self._exposed.summary()


class Simulation:
    """One run, put together but not started; tests look inside, everyone else calls `simulate`."""

    def __init__(
        self,
        spec: ClusterSpec,
        workload: Workload,
        *,
        faults: Sequence[Fault] = (),
        step_models: Mapping[str, StepModel] | None = None,
        keep_requests: bool = False,
        leaping: bool = True,
        journal: Journal | None = None,
    ) -> None:
        self.spec = spec
        self.workload = workload
        self.fleet: Fleet = build_fleet(spec, step_models)
        self.recorder = Recorder(spec.slo, keep_requests)
        self._leaping = leaping
        self._seen: dict[str, list[VirtualWorker]] = {pool.name: [] for pool in spec.pools}
        self._members = {member.info.worker_id: member for member in self.fleet.members}
        self._incarnations: dict[WorkerId, int] = {}
        self.core = Orchestrator(
            virtual_limits(spec.limits),
            placement_cost(spec, self.fleet),
            max_model_tokens=self.fleet.max_model_tokens,
            slo=spec.slo,
        )
        self.link = None if spec.link is None else VirtualLink(spec.link, self.fleet.layers)
        self.driver = VirtualDriver(
            self.core,
            request_maker(
                kv_block_tokens=spec.kv.block_tokens,
                trace_block_tokens=workload.block_tokens,
                max_model_tokens=self.fleet.max_model_tokens,
                prompt_cache=spec.kv.prompt_cache,
            ),
            self.recorder,
            self.link,
            {member.info.worker_id: delays_of(member) for member in self.fleet.members},
            self.fleet.kv_bytes_per_token,
            journal,
            host_of(self.fleet),
        )
        check_faults(tuple(faults), tuple(self._members))
        self._schedule(tuple(faults))

    def run(self) -> SimulationResult:
        """To the end of the workload."""
        began_s = time.perf_counter()
        with _rare_collections():
            self.driver.run(iter(self.workload))
        return self._result(time.perf_counter() - began_s)

    # ------------------------------------------------------------ workers and faults

    def _schedule(self, faults: tuple[Fault, ...]) -> None:
        late = {WorkerId(fault.worker_id): fault.t_s for fault in faults if isinstance(fault, ColdStart)}
        for member in self.fleet.members:
            t_s = late.get(member.info.worker_id)
            if t_s is None:
                self._join(member.info.worker_id, None)
            else:
                self.driver.at(t_s, self._join, member.info.worker_id, None)
        for fault in faults:
            if not isinstance(fault, ColdStart):
                self.driver.at(fault.t_s, self._strike, fault)

    def _join(self, worker_id: WorkerId, role: object) -> None:
        member = self._members[worker_id]
        incarnation = self._incarnations.get(worker_id, 0) + 1
        self._incarnations[worker_id] = incarnation
        changes = {"incarnation": incarnation} | ({"role": role} if role is not None else {})
        info = msgspec.structs.replace(member.info, **changes)
        scheduler = Scheduler(member.config, self.core.adopted_leases(worker_id))
        worker = VirtualWorker(
            info,
            scheduler,
            member.model,
            self.driver.lives,
            self.driver,
            self.recorder.itl,
            leaping=self._leaping,
        )
        self._seen[info.pool].append(worker)
        self.driver.join(worker)

    def _strike(self, fault: Kill | Slow | SlowLink) -> None:
        match fault:
            case SlowLink():
                if self.link is not None:
                    self.link.slow = fault.factor
            case Slow():
                worker = self.driver.worker(WorkerId(fault.worker_id))
                if worker is not None:
                    worker.set_speed(fault.factor, self.driver.now_s)
            case Kill():
                self._kill(fault)

    def _kill(self, fault: Kill) -> None:
        worker_id = WorkerId(fault.worker_id)
        worker = self.driver.worker(worker_id)
        if worker is not None:
            worker.halt(self.driver.now_s)
        self.driver.at(fault.t_s + fault.noticed_after_s, self.driver.lose, worker_id, "killed by the script")
        if fault.back_after_s is not None:
            back_s = fault.t_s + max(fault.noticed_after_s, fault.back_after_s)
            self.driver.at(back_s, self._join, worker_id, fault.role)

    # ------------------------------------------------------------ result

    def _result(self, wall_s: float) -> SimulationResult:
        seen = self.recorder
        makespan_s = max(seen.last_s - seen.first_s, 0.0) if seen.requests else 0.0
        ttft, tpot, e2e, exposed = seen.summaries()
        return SimulationResult(
            requests=seen.requests,
            completed=seen.completed,
            rejected=seen.rejected,
            failed=seen.failed,
            ttft_s=ttft,
            tpot_s=tpot,
            itl_s=seen.itl.summary(),
            e2e_s=e2e,
            goodput_rps=_rate(seen.met, makespan_s),
            slo_attainment=seen.met / seen.requests if seen.requests else 0.0,
            output_tokens_per_s=_rate(seen.output_tokens, makespan_s),
            makespan_s=makespan_s,
            pools={pool.name: self._pool(pool.name, makespan_s) for pool in self.spec.pools},
            prefix_hit_tokens=seen.hit_tokens,
            prompt_tokens=seen.prompt_tokens,
            handoff=HandoffResult(count=seen.handoffs, bytes=seen.handoff_bytes, exposed_s=exposed),
            link_utilisation=_rate(self.link.busy_s, makespan_s) if self.link is not None else None,
            events=self.driver.events,
            wall_s=wall_s,
            records=tuple(seen.records),
        )

    def _pool(self, name: str, makespan_s: float) -> PoolResult:
        pool = next(pool for pool in self.spec.pools if pool.name == name)
        workers = self._seen[name]
        prefill_s = sum(worker.prefill_s for worker in workers)
        decode_s = sum(worker.decode_s for worker in workers)
        fullest = [worker.peak_held_blocks / worker.info.arena.blocks for worker in workers]
        energy_j, cost = consumption(pool, prefill_s, decode_s, makespan_s)
        return PoolResult(
            workers=pool.workers,
            utilisation=_rate(prefill_s + decode_s, makespan_s * pool.workers),
            busy_s=prefill_s + decode_s,
            prefill_s=prefill_s,
            decode_s=decode_s,
            kv_peak_fraction=max(fullest, default=0.0),
            energy_j=energy_j,
            cost=cost,
        )


def simulate(
    spec: ClusterSpec,
    workload: Workload,
    *,
    faults: Sequence[Fault] = (),
    step_models: Mapping[str, StepModel] | None = None,
    keep_requests: bool = False,
) -> SimulationResult:
    """Run ``workload`` on the cluster of ``spec`` in virtual time: the production orchestrator and
    schedulers,
    and cost models for devices.

    Raises:
        SpecError: a pool without a speed, block sizes that do not fit, a fault at a worker that does not
        exist.
    """
    return Simulation(
        spec, workload, faults=faults, step_models=step_models, keep_requests=keep_requests
    ).run()


def delays_of(member: Member) -> Delays:
    """What a measured profile says of orders on their way to this worker."""
    profile = member.pool.profile
    if profile is None:
        return Delays()
    return Delays(profile.dispatch_s, profile.handoff_fixed_s, profile.handoff_per_token_s)


def host_of(fleet: Fleet) -> Host | None:
    """Workers that slow each other down, if any profile says so."""
    factors = {
        member.info.worker_id: member.pool.profile.contended_factor if member.pool.profile else 1.0
        for member in fleet.members
    }
    return Host(factors) if any(factor != 1.0 for factor in factors.values()) else None


def virtual_limits(limits: LimitsSpec) -> LimitsSpec:
    """The spec's limits without those that watch over processes: virtual workers send no heartbeats, and a
    fault
    says itself when it is noticed."""
    return limits.model_copy(update={"heartbeat_timeout_s": inf, "stall_timeout_s": inf})


@contextmanager
def _rare_collections() -> Iterator[None]:
    """A run makes many objects and few cycles: looking for cycles as often as usual costs a tenth of its
    time."""
    usual = gc.get_threshold()
    gc.set_threshold(200_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _record(arrival: Arrival, report: RequestReport, arrived_s: float, now_s: float) -> RequestRecord:
    moments = report.moments
    placed = report.placements[-1] if report.placements else None
    reserved_s = moments.get(Moment.DECODE_RESERVED)
    return RequestRecord(
        number=int(report.request_id),
        state=report.state.value,
        arrival_s=arrived_s,
        first_token_s=moments.get(Moment.FIRST_TOKEN),
        last_token_s=moments.get(Moment.LAST_TOKEN),
        ended_s=now_s,
        input_tokens=arrival.input_tokens,
        output_tokens=arrival.output_tokens,
        cached_tokens=report.cached_tokens,
        prefill_worker=placed.prefill_worker if placed else None,
        decode_worker=placed.decode_worker if placed else None,
        decode_wait_s=None if reserved_s is None else reserved_s - arrived_s,
        handoff_s=report.handoff.handoff_s,
        error=report.error_code,
    )


def _rate(amount: float, span_s: float) -> float:
    return amount / span_s if span_s > 0 else 0.0
