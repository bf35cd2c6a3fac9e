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

from diptych.domain.cluster import ClusterSpec, LimitsSpec
from diptych.domain.ids import WorkerId
from diptych.orchestration.core import Orchestrator
from diptych.performance.steps import StepModel
from diptych.planning.consumption import consumption
from diptych.planning.driver import Delays, Journal, VirtualDriver
from diptych.planning.faults import ColdStart, Fault, Kill, Slow, SlowLink, check_faults
from diptych.planning.fleet import Fleet, Member, build_fleet
from diptych.planning.host import Host
from diptych.planning.link import VirtualLink
from diptych.planning.placement_cost import placement_cost
from diptych.planning.recorder import Recorder
from diptych.planning.requests import request_maker
from diptych.planning.result import HandoffResult, PoolResult, SimulationResult
from diptych.planning.worker import VirtualWorker
from diptych.scheduling import Scheduler
from diptych.workload.record import Workload

BETWEEN_COLLECTIONS = 500_000
"""Containers that a run makes, less those it gives up, between two looks for cycles."""


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
    """A run makes many objects and next to no cycles: looking for cycles as often as usual costs a tenth of
    its time."""
    usual = gc.get_threshold()
    gc.set_threshold(BETWEEN_COLLECTIONS, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _rate(amount: float, span_s: float) -> float:
    return amount / span_s if span_s > 0 else 0.0
