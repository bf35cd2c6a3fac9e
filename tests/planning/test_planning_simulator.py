"""The simulator by itself: what happens to requests when workers die, hosts are shared, links are slow,
sessions pause."""

from __future__ import annotations

import random

import pytest

from diptych.domain.cluster import ClusterSpec, KVSpec, LimitsSpec, ModelSpec, PoolSpec, SloSpec
from diptych.domain.errors import SpecError
from diptych.domain.fleet import DecodeFit, DeviceSpec, LinkSpec, PrefillFit, ProfileSpec
from diptych.domain.ids import WorkerId
from diptych.domain.worker import Role
from diptych.planning.faults import ColdStart, Fault, Kill, Slow, SlowLink
from diptych.planning.link import VirtualLink
from diptych.planning.simulate import simulate
from diptych.workload.record import Arrival, Workload

PROFILE = ProfileSpec(
    prefill=PrefillFit(fixed_s=0.01, per_token_s=1e-4),
    decode=(DecodeFit(fixed_s=0.02),),
    kv_tokens=20_000,
    kv_bytes_per_token=1_000,
    power_busy_w=100.0,
    power_idle_w=10.0,
    cost_per_hour=3.6,
)


def _pool(role: Role, workers: int, profile: ProfileSpec = PROFILE) -> PoolSpec:
    return PoolSpec(name=role.value, role=role, workers=workers, token_budget=512, profile=profile)


def _spec(*pools: PoolSpec, link: LinkSpec | None = None, slo: SloSpec | None = None) -> ClusterSpec:
    limits = LimitsSpec(prefill_backlog_tokens=1024, output_reserve_tokens=64)
    return ClusterSpec(
        pools=pools, kv=KVSpec(block_tokens=16), limits=limits, link=link, slo=slo or SloSpec()
    )


MIXED = _spec(_pool(Role.MIXED, 2))
SPLIT = _spec(_pool(Role.PREFILL, 2), _pool(Role.DECODE, 2))
LINKED = _spec(_pool(Role.PREFILL, 2), _pool(Role.DECODE, 2), link=LinkSpec(bandwidth_bytes_per_s=1e8))


def _workload(*arrivals: Arrival) -> Workload:
    return Workload("test", lambda: iter(arrivals), block_tokens=16, requests=len(arrivals))


def _some(requests: int = 60, seed: int = 1) -> Workload:
    rng = random.Random(seed)
    times = sorted(rng.uniform(0, 8) for _ in range(requests))
    return _workload(
        *(
            Arrival(t_s=t_s, input_tokens=rng.randint(16, 800), output_tokens=rng.randint(1, 120))
            for t_s in times
        )
    )


def test_one_request_takes_what_the_profile_says() -> None:
    """One chunk, then nine steps: TTFT, TPOT, e2e, energy and money by hand."""
    result = simulate(MIXED, _workload(Arrival(t_s=5.0, input_tokens=100, output_tokens=10)))
    assert result.requests == result.completed == 1
    assert result.ttft_s.p50 == pytest.approx(0.01 + 100 * 1e-4)
    assert result.tpot_s.p50 == pytest.approx(0.02)
    assert result.e2e_s.p50 == pytest.approx(0.02 + 9 * 0.02)
    assert result.itl_s.count == 9
    assert result.itl_s.p50 == pytest.approx(0.02, rel=1e-3)
    pool = result.pools["mixed"]
    assert pool.busy_s == pytest.approx(0.2)
    assert pool.utilisation == pytest.approx(0.5)
    assert pool.energy_j == pytest.approx(100 * 0.2 + 10 * 0.2)
    assert pool.cost == pytest.approx(3.6 * 2 * 0.2 / 3600)
    assert result.output_tokens_per_s == pytest.approx(10 / 0.2)


def test_the_slo_is_met_or_missed() -> None:
    arrivals = [
        Arrival(t_s=10.0 * i, input_tokens=tokens, output_tokens=4) for i, tokens in enumerate((50, 400))
    ]
    spec = _spec(_pool(Role.MIXED, 1), slo=SloSpec(ttft_s=0.03, tpot_s=0.1))
    result = simulate(spec, _workload(*arrivals))
    assert result.slo_attainment == 0.5
    assert result.goodput_rps == pytest.approx(1 / result.makespan_s)


def test_a_link_shows_in_the_second_token_and_in_the_handoff() -> None:
    link = LinkSpec(bandwidth_bytes_per_s=1e6, layerwise=False, latency_s=0.0)
    spec = _spec(_pool(Role.PREFILL, 1), _pool(Role.DECODE, 1), link=link)
    result = simulate(spec, _workload(Arrival(t_s=0, input_tokens=160, output_tokens=2)))
    assert result.ttft_s.p50 == pytest.approx(0.01 + 160 * 1e-4)
    assert result.handoff.count == 1
    assert result.handoff.bytes == 160_000
    assert result.handoff.exposed_s.p50 == pytest.approx(0.16)
    assert result.tpot_s.p50 == pytest.approx(0.16 + 0.02)


def test_layers_leave_while_later_ones_are_computed() -> None:
    spec = LinkSpec(bandwidth_bytes_per_s=100.0, latency_s=0.0, residual_s=0.0)
    path = (WorkerId("a"), WorkerId("b"))
    hidden = VirtualLink(spec, layers=10).arrives_s(path, 50.0, prefill_s=1.0, now_s=7.0)
    assert hidden == pytest.approx(7.0 + 0.05)  # only the last layer is left
    exposed = VirtualLink(spec, layers=10).arrives_s(path, 200.0, prefill_s=1.0, now_s=7.0)
    assert exposed == pytest.approx(7.0 - 0.9 + 2.0)


def test_flows_on_one_link_wait_for_each_other() -> None:
    spec = LinkSpec(bandwidth_bytes_per_s=100.0, latency_s=0.0, layerwise=False)
    one, two = (WorkerId("a"), WorkerId("b")), (WorkerId("c"), WorkerId("d"))
    shared = VirtualLink(spec, 1)
    assert [shared.arrives_s(path, 100.0, 0.0, 0.0) for path in (one, two)] == [1.0, 2.0]
    apart = VirtualLink(spec.model_copy(update={"shared": False}), 1)
    assert [apart.arrives_s(path, 100.0, 0.0, 0.0) for path in (one, two)] == [1.0, 1.0]


@pytest.mark.parametrize("spec", [MIXED, SPLIT, LINKED], ids=["mixed", "split", "linked"])
@pytest.mark.parametrize("back_after_s", [None, 0.5])
@pytest.mark.parametrize("noticed_after_s", [0.0, 1.0])
def test_no_request_is_lost_when_workers_die(
    spec: ClusterSpec, back_after_s: float | None, noticed_after_s: float
) -> None:
    """Each worker dies once, one after the other; somebody is always left."""
    names = [f"{pool.name}-{i}" for pool in spec.pools for i in range(pool.workers)]
    if back_after_s is None:
        names = [names[0], names[-1]] if len(spec.pools) > 1 else names[:1]
    faults = [
        Kill(t_s=1.0 + 2.0 * i, worker_id=name, noticed_after_s=noticed_after_s, back_after_s=back_after_s)
        for i, name in enumerate(names)
    ]
    result = simulate(spec, _some(), faults=faults, keep_requests=True)
    assert result.completed == result.requests == 60
    assert all(record.last_token_s is not None for record in result.records)


def test_a_worker_comes_back_in_another_role() -> None:
    faults: list[Fault] = [Kill(t_s=1.0, worker_id="decode-1", back_after_s=0.2, role=Role.PREFILL)]
    result = simulate(SPLIT, _some(), faults=faults, keep_requests=True)
    assert result.completed == 60
    assert "decode-1" in {record.prefill_worker for record in result.records}


def test_slow_workers_and_links_are_slower() -> None:
    usual = simulate(LINKED, _some()).e2e_s.mean or 0
    crawling: list[Fault] = [Slow(t_s=0.0, worker_id=f"decode-{i}", factor=3.0) for i in range(2)]
    assert (simulate(LINKED, _some(), faults=crawling).e2e_s.mean or 0) > 2 * usual
    assert (simulate(LINKED, _some(), faults=[SlowLink(t_s=0.0, factor=50.0)]).e2e_s.mean or 0) > 1.2 * usual


def test_a_slow_worker_takes_exactly_as_many_times_longer_in_the_middle_of_a_leap() -> None:
    arrival = Arrival(t_s=0.0, input_tokens=100, output_tokens=101)
    spec = _spec(_pool(Role.MIXED, 1))
    result = simulate(spec, _workload(arrival), faults=[Slow(t_s=1.02, worker_id="mixed-0", factor=2.0)])
    assert result.e2e_s.p50 == pytest.approx(0.02 + 50 * 0.02 + 50 * 0.04)


def test_a_cold_worker_is_not_used_before_it_is_there() -> None:
    late = simulate(MIXED, _some(), faults=[ColdStart(t_s=4.0, worker_id="mixed-1")], keep_requests=True)
    early = [it for it in late.records if it.first_token_s is not None and it.first_token_s < 4.0]
    assert early
    assert {it.decode_worker for it in early} == {"mixed-0"}
    assert late.completed == 60


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Kill(t_s=1.0, worker_id="mixed-7"), "no worker 'mixed-7'; there are mixed-0, mixed-1"),
        (Slow(t_s=1.0, worker_id="mixed-0", factor=0.0), r"faults\[0\].factor"),
        (ColdStart(t_s=-1.0, worker_id="mixed-0"), r"faults\[0\].t_s"),
    ],
)
def test_a_fault_that_cannot_be_is_refused(fault: Fault, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        simulate(MIXED, _some(), faults=[fault])


def test_company_on_the_same_host_slows_a_worker() -> None:
    """Two requests on two workers: both compute all the time, so every step takes the factor."""
    shared = PROFILE.model_copy(update={"contended_factor": 1.5})
    arrivals = [Arrival(t_s=0.0, input_tokens=100, output_tokens=10)] * 2
    alone = simulate(_spec(_pool(Role.MIXED, 2, shared)), _workload(arrivals[0]))
    both = simulate(_spec(_pool(Role.MIXED, 2, shared)), _workload(*arrivals), keep_requests=True)
    assert alone.e2e_s.p50 == pytest.approx(0.02 + 9 * 0.02)
    assert {record.decode_worker for record in both.records} == {"mixed-0", "mixed-1"}
    assert both.e2e_s.p50 == pytest.approx(1.5 * (0.02 + 9 * 0.02))


def test_company_and_a_fault_slow_a_worker_together() -> None:
    shared = PROFILE.model_copy(update={"contended_factor": 1.5})
    arrivals = [Arrival(t_s=0.0, input_tokens=100, output_tokens=10)] * 2
    slow = [Slow(t_s=0.0, worker_id=f"mixed-{i}", factor=2.0) for i in range(2)]
    both = simulate(_spec(_pool(Role.MIXED, 2, shared)), _workload(*arrivals), faults=slow)
    assert both.e2e_s.p50 == pytest.approx(2.0 * 1.5 * (0.02 + 9 * 0.02))


def test_turns_of_a_session_follow_each_other_after_a_pause() -> None:
    first = Arrival(t_s=1.0, input_tokens=100, output_tokens=11, session_id="s")
    turn = Arrival(t_s=1.0, input_tokens=200, output_tokens=1, session_id="s", delay_s=3.0)
    records = simulate(MIXED, _workload(first, turn, turn), keep_requests=True).records
    starts = [record.arrival_s for record in records]
    ends = [record.ended_s or 0.0 for record in records]
    assert starts == [1.0, pytest.approx(ends[0] + 3.0), pytest.approx(ends[1] + 3.0)]


def test_a_prompt_that_can_never_fit_is_turned_away_and_the_rest_goes_on() -> None:
    huge = Arrival(t_s=0.0, input_tokens=30_000, output_tokens=5)
    small = Arrival(t_s=0.1, input_tokens=30, output_tokens=5)
    result = simulate(MIXED, _workload(huge, small))
    assert (result.requests, result.completed, result.rejected) == (2, 1, 1)


def test_rounded_weights_say_nothing_of_catalogue_hardware() -> None:
    pool = PoolSpec(name="mixed", role=Role.MIXED, device=DeviceSpec(chip="H100-SXM"), weights="int8")
    spec = ClusterSpec(model=ModelSpec(path="llama-3.1-8b"), pools=(pool,))
    with pytest.raises(SpecError, match=r"'mixed': weights: int8 .* give device.weights"):
        simulate(spec, _workload())


def test_a_pool_without_a_speed_is_refused() -> None:
    spec = ClusterSpec(pools=(PoolSpec(name="mixed", role=Role.MIXED),))
    with pytest.raises(SpecError, match="'mixed' says nothing of its speed"):
        simulate(spec, _some())


def test_blocks_that_do_not_fit_each_other_are_refused() -> None:
    odd = Workload("odd", lambda: iter(()), block_tokens=100)
    with pytest.raises(SpecError, match="do not divide each other"):
        simulate(MIXED, odd)


def test_prefixes_are_found_whatever_the_block_sizes() -> None:
    """A trace in blocks of 64 tokens on KV blocks of 16: the second prompt shares 128 of its tokens."""
    one = Arrival(t_s=0.0, input_tokens=200, output_tokens=2, hash_ids=(1, 2, 3, 4))
    two = Arrival(t_s=5.0, input_tokens=200, output_tokens=2, hash_ids=(1, 2, 9))
    spec = _spec(_pool(Role.MIXED, 1))
    result = simulate(spec, Workload("trace", lambda: iter((one, two)), block_tokens=64), keep_requests=True)
    assert [record.cached_tokens for record in result.records] == [0, 128]
    assert result.prefix_hit_tokens == 128
