"""Time can pass in three ways and nothing depends on which: the simulator leaping, the simulator stepping,
and the real
asyncio driver on a loop whose time jumps."""

from __future__ import annotations

import random
from typing import Any

import pytest

from diptych.domain.cluster import ClusterSpec, KVSpec, LimitsSpec, PoolSpec
from diptych.domain.fleet import DecodeFit, LinkSpec, PrefillFit, ProfileSpec
from diptych.domain.worker import Role
from diptych.planning.simulate import Simulation
from diptych.workload.record import Arrival, Workload
from support.virtual_head import VirtualHead

PROFILE = ProfileSpec(
    prefill=PrefillFit(fixed_s=0.004, per_token_s=7e-5, per_token2_s=3e-9),
    decode=(DecodeFit(fixed_s=0.011, per_context_token_s=4e-8, per_sequence_s=1.3e-4),),
    kv_tokens=6_000,
    kv_bytes_per_token=1_000,
    handoff_fixed_s=0.0007,
)
LINK = LinkSpec(bandwidth_bytes_per_s=2e7, residual_s=0.001)


def _pool(role: Role, workers: int, budget: int = 256) -> PoolSpec:
    return PoolSpec(
        name=role.value, role=role, workers=workers, token_budget=budget, max_running=12, profile=PROFILE
    )


def _spec(*pools: PoolSpec, link: LinkSpec | None = None) -> ClusterSpec:
    limits = LimitsSpec(prefill_backlog_tokens=512, output_reserve_tokens=64, queue_requests=60)
    return ClusterSpec(pools=pools, kv=KVSpec(block_tokens=16), limits=limits, link=link)


SPECS = {
    "mixed": _spec(_pool(Role.MIXED, 3)),
    "small budget": _spec(_pool(Role.MIXED, 2, budget=6)),
    "small chunks": _spec(_pool(Role.MIXED, 2, budget=24)),
    "split in small chunks": _spec(_pool(Role.PREFILL, 2, budget=24), _pool(Role.DECODE, 1, budget=24)),
    "split": _spec(_pool(Role.PREFILL, 2), _pool(Role.DECODE, 2)),
    "split over a link": _spec(_pool(Role.PREFILL, 2), _pool(Role.DECODE, 2), link=LINK),
    "hybrid": _spec(_pool(Role.PREFILL, 1), _pool(Role.DECODE, 1), _pool(Role.MIXED, 1)),
}


def _workload(seed: int, requests: int = 120) -> Workload:
    """Bursts, shared prefixes, outputs from one token on; enough pressure that memory runs out now and
    then."""
    rng = random.Random(seed)
    arrivals, t_s = [], 0.0
    for _ in range(requests):
        t_s += rng.choice((0.0, 0.01, 0.05, 0.2)) * rng.random()
        tokens = rng.randint(1, 900)
        family = rng.randrange(4)
        shared = rng.randint(0, tokens // 64)
        ids = tuple(family * 100 + i for i in range(shared))
        arrivals.append(
            Arrival(t_s=t_s, input_tokens=tokens, output_tokens=rng.randint(1, 300), hash_ids=ids)
        )
    return Workload("random", lambda: iter(arrivals), block_tokens=64, requests=requests)


def _by_number(simulation: Simulation) -> list[Any]:
    simulation.run()
    return sorted(simulation.recorder.records, key=lambda record: record.number)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("seed", range(4))
def test_leaping_is_stepping(name: str, seed: int) -> None:
    workload = _workload(seed)
    leapt = _by_number(Simulation(SPECS[name], workload, keep_requests=True))
    stepped = _by_number(Simulation(SPECS[name], workload, keep_requests=True, leaping=False))
    assert len(leapt) == workload.requests
    for one, other in zip(leapt, stepped, strict=True):
        assert (one.state, one.prefill_worker, one.decode_worker, one.cached_tokens, one.error) == (
            other.state,
            other.prefill_worker,
            other.decode_worker,
            other.cached_tokens,
            other.error,
        )
        for field in ("first_token_s", "last_token_s", "ended_s", "decode_wait_s"):
            assert getattr(one, field) == pytest.approx(getattr(other, field), abs=1e-9)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("seed", range(2))
def test_the_real_driver_on_a_virtual_clock_is_the_simulator(name: str, seed: int) -> None:
    """Every event at the same time, with the same commands, in the same order."""
    workload = _workload(seed)
    simulated: list[Any] = []
    driven: list[Any] = []
    Simulation(SPECS[name], workload, journal=lambda *entry: simulated.append(entry)).run()
    VirtualHead(SPECS[name], workload, journal=lambda *entry: driven.append(entry)).run()
    assert len(simulated) > 5 * (workload.requests or 0)
    for one, other in zip(simulated, driven, strict=True):
        assert one == other
