"""Both sides of a load are taken over all its runs, by the same definitions."""

from __future__ import annotations

import msgspec
import pytest

from diptych.bench.house.anchor import Drift
from diptych.bench.house.ask import Answer
from diptych.bench.house.loads import lengths_for, poisson
from diptych.bench.house.validate import Sides, around
from diptych.domain.cluster import ClusterSpec, PoolSpec
from diptych.domain.errors import ClusterError
from diptych.domain.fleet import DecodeFit, PrefillFit, ProfileSpec
from diptych.domain.ids import RequestId
from diptych.domain.lifecycle import State
from diptych.domain.report import RequestReport
from diptych.domain.request import FinishReason
from diptych.domain.worker import Role
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


def simulated(workload: Workload) -> SimulationResult:
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


@pytest.mark.parametrize("slower", [1.0, 1.3])
def test_equal_runs_agree_and_slower_ones_show_by_how_much(slower: float) -> None:
    lengths = lengths_for(2048, 16)
    sides = Sides(2.0, poisson)
    for seed in (1, 2, 3):
        workload = sides.make(2.0, 30, lengths, seed)
        result = by_number(simulated(workload))
        sides.add(as_answers(result, workload, slower), result)
    rows = sides.rows("1 mixed", "some")
    assert [row.metric for row in rows] == ["TTFT p50", "TTFT p90", "TPOT p50", "TPOT p90"]
    assert {row.requests for row in rows} == {90}
    for row in rows:
        assert row.error == pytest.approx(1 / slower - 1)
        assert row.passed is (slower == 1.0)


def test_a_disturbed_run_is_a_third_of_what_counts() -> None:
    lengths = lengths_for(2048, 16)
    sides = Sides(2.0, poisson)
    for seed, slower in ((1, 1.0), (2, 5.0), (3, 1.0)):
        workload = sides.make(2.0, 30, lengths, seed)
        result = by_number(simulated(workload))
        sides.add(as_answers(result, workload, slower), result)
    ttft_p50 = sides.rows("1 mixed", "some")[0]
    assert -0.5 < ttft_p50.error < 0


def test_a_request_that_did_not_finish_is_no_measurement() -> None:
    workload = poisson(2.0, 4, lengths_for(2048, 16), 1)
    result = by_number(simulated(workload))
    answers = as_answers(result, workload)
    answers[2].report = None
    with pytest.raises(ClusterError, match=r"^1 of 4 real requests did not finish"):
        Sides(2.0, poisson).add(answers, result)


def test_the_looks_next_to_a_run_count_twice_and_those_beyond_once() -> None:
    looks = [Drift(float(i), 1.0) for i in range(6)]
    assert sorted(look.prefill for look in around(looks, 2)) == [1, 2, 2, 3, 3, 4]
    assert sorted(look.prefill for look in around(looks, 0)) == [0, 0, 1, 1, 2]
    assert sorted(look.prefill for look in around(looks, 4)) == [3, 4, 4, 5, 5]
    assert sorted(look.prefill for look in around(looks[:2], 0)) == [0, 0, 1, 1]
