"""Both sides of a load are taken over all its runs, by the same definitions."""

from __future__ import annotations

import msgspec
import pytest

from diptych.bench.house.anchor import Drift, drifted
from diptych.bench.house.ask import Answer
from diptych.bench.house.loads import lengths_for, poisson, saturation_rps
from diptych.bench.house.steps import Step
from diptych.bench.house.validate import Piece, compared, measured, simulated
from diptych.domain.cluster import ClusterSpec, PoolSpec
from diptych.domain.errors import ClusterError
from diptych.domain.fleet import DecodeFit, PrefillFit, ProfileSpec
from diptych.domain.ids import RequestId, WorkerId
from diptych.domain.lifecycle import State
from diptych.domain.report import RequestReport
from diptych.domain.request import FinishReason
from diptych.domain.worker import Role
from diptych.performance.steps import Chunk
from diptych.planning.result import SimulationResult
from diptych.planning.simulate import simulate
from diptych.workload.record import Workload

PROFILE = ProfileSpec(
    prefill=PrefillFit(fixed_s=0.01, per_token_s=1e-4, per_token2_s=0.0),
    decode=(DecodeFit(fixed_s=0.01, per_context_token_s=1e-7, per_sequence_s=1e-3),),
    kv_tokens=100_000,
    kv_bytes_per_token=100,
)
SPEC = ClusterSpec(pools=(PoolSpec(name="mixed", role=Role.MIXED, profile=PROFILE),))


def run_virtually(workload: Workload) -> SimulationResult:
    return simulate(SPEC, workload, keep_requests=True)


def as_answers(result: SimulationResult, workload: Workload, slower: float = 1.0) -> list[Answer]:
    """A real run that took so many times what was simulated."""
    answers: list[Answer] = []
    for arrival, record in zip(workload, result.records, strict=True):
        assert record.first_token_s is not None and record.last_token_s is not None
        first_s = record.arrival_s + slower * (record.first_token_s - record.arrival_s)
        answers.append(
            Answer(
                arrival=arrival,
                due_s=record.arrival_s,
                first_s=first_s,
                last_s=first_s + slower * (record.last_token_s - record.first_token_s),
                tokens=arrival.output_tokens,
                report=RequestReport(
                    request_id=RequestId("r"), state=State.FINISHED, finish_reason=FinishReason.LENGTH
                ),
            )
        )
    return answers


def by_number(result: SimulationResult) -> SimulationResult:
    return msgspec.structs.replace(result, records=tuple(sorted(result.records, key=lambda it: it.number)))


def piece(seed: int, slower: float = 1.0) -> Piece:
    workload = poisson(2.0, 30, lengths_for(2048, 16), seed)
    result = run_virtually(workload)
    return Piece(
        topology="1 mixed",
        load="some",
        rate_rps=2.0,
        seed=seed,
        speeds=(Drift(1.0, 1.0),),
        measured=measured(as_answers(by_number(result), workload, slower), []),
        simulated=simulated([result]),
    )


@pytest.mark.parametrize("slower", [1.0, 1.3])
def test_equal_runs_agree_and_slower_ones_show_by_how_much(slower: float) -> None:
    rows = compared([piece(seed, slower) for seed in (1, 2, 3)])
    assert [row.metric for row in rows] == ["TTFT p50", "TTFT p90", "TPOT p50", "TPOT p90"]
    assert {row.requests for row in rows} == {90}
    for row in rows:
        assert row.error == pytest.approx(1 / slower - 1)
        assert row.passed is (slower == 1.0)


def test_a_disturbed_run_is_a_third_of_what_counts() -> None:
    ttft_p50 = compared([piece(1), piece(2, 5.0), piece(3)])[0]
    assert -0.5 < ttft_p50.error < 0


def test_loads_and_topologies_are_not_mixed_up() -> None:
    other = msgspec.structs.replace(piece(2, 1.3), load="other")
    split = msgspec.structs.replace(piece(3, 1.5), topology="1P+1D")
    rows = compared([piece(1), other, split, piece(4)])
    assert [(row.topology, row.load, row.requests) for row in rows[::4]] == [
        ("1 mixed", "some", 60),
        ("1 mixed", "other", 30),
        ("1P+1D", "some", 30),
    ]
    assert [row.error for row in rows[::4]] == pytest.approx([0, 1 / 1.3 - 1, 1 / 1.5 - 1])


def test_both_sides_name_requests_in_the_order_of_their_arrival_and_the_seconds_of_the_workers() -> None:
    workload = poisson(2.0, 30, lengths_for(2048, 16), 1)
    result = run_virtually(workload)
    steps = [
        Step(WorkerId("w"), 1.0, (Chunk(16, 0),), 2, 0.2, None),
        Step(WorkerId("w"), 1.5, (), 2, 0.1, 0.3),
        Step(WorkerId("v"), 1.7, (), 4, 0.1, None),
    ]
    real = measured(as_answers(by_number(result), workload), steps)
    virtual = simulated([result])
    assert real.ttft_s == pytest.approx(virtual.ttft_s)
    assert real.tpot_s == pytest.approx(virtual.tpot_s)
    assert (real.prefill_s, real.decode_s) == pytest.approx((0.2, 0.4))
    assert virtual.prefill_s == result.pools["mixed"].prefill_s > 0


def test_a_piece_at_several_possible_speeds_has_each_request_at_each_of_them() -> None:
    workload = poisson(2.0, 30, lengths_for(2048, 16), 1)
    slow_spec = drifted(SPEC, Drift(1.5, 1.2))
    quick, slow = run_virtually(workload), simulate(slow_spec, workload, keep_requests=True)
    both = simulated([quick, slow])
    assert both.ttft_s == (*simulated([quick]).ttft_s, *simulated([slow]).ttft_s)
    assert both.tpot_s == (*simulated([quick]).tpot_s, *simulated([slow]).tpot_s)
    of_mixed = [it.pools["mixed"].prefill_s for it in (quick, slow)]
    assert both.prefill_s == pytest.approx(sum(of_mixed) / 2)
    (row, *_) = compared([msgspec.structs.replace(piece(1), simulated=both)])
    assert row.requests == 30 and row.error > 0


def test_a_request_that_did_not_finish_is_no_measurement() -> None:
    workload = poisson(2.0, 4, lengths_for(2048, 16), 1)
    answers = as_answers(by_number(run_virtually(workload)), workload)
    answers[2].report = None
    with pytest.raises(ClusterError, match=r"^1 of 4 real requests did not finish"):
        measured(answers, [])


def test_a_cluster_is_saturated_at_about_the_same_rate_whatever_the_draw() -> None:
    lengths = lengths_for(4096, 16)
    rates = [saturation_rps(SPEC, lengths, seed) for seed in (1, 2, 3, 1000, 1001, 1002)]
    assert max(rates) <= 1.4 * min(rates)


def test_at_that_rate_the_busiest_pool_hardly_rests() -> None:
    lengths = lengths_for(4096, 16)
    workload = poisson(saturation_rps(SPEC, lengths, 1), 1_000, lengths, 2)
    result = run_virtually(workload)
    assert result.pools["mixed"].busy_s > 0.9 * max(it.t_s for it in workload)
