"""A profile is recovered from samples of an engine that is known; a real run is compared as it should be."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import cycle
from statistics import fmean
from typing import TYPE_CHECKING

import pytest

from diptych.bench.house.anchor import Drift, drifted, mean_of, speeds
from diptych.bench.house.experiments import (
    VISITS,
    Beside,
    DecodeSample,
    Experiment,
    PrefillSample,
    Samples,
    interleaved,
)
from diptych.bench.house.fit import fit_profile, smoothed
from diptych.bench.house.loads import Lengths, lengths_for, poisson, sharing
from diptych.bench.house.steps import StepWatch
from diptych.domain.cluster import ClusterSpec, PoolSpec
from diptych.domain.errors import ClusterError
from diptych.domain.events import Heartbeat
from diptych.domain.ids import WorkerId
from diptych.domain.worker import Role, WorkerStats
from diptych.performance.steps import Chunk, FittedSteps

if TYPE_CHECKING:
    pass

NOISE = 0.03


def _prefill_s(new: int, cached: int) -> float:
    return 0.003 + 1.1e-4 * new + 2e-8 * new * (new + 2 * cached)


def _decode_s(batch: int, context: int) -> float:
    return 0.004 + 0.0006 * batch + 3e-7 * context


def _mixed_s(new: int, batch: int, context: int) -> float:
    """Nine tenths of the prompt; half of what the batch costs without its context."""
    return 0.9 * _prefill_s(new, 0) + 0.5 * _decode_s(batch, 0) + 3e-7 * context


def _samples(seed: int = 1) -> Samples:
    rng = random.Random(seed)

    def noisy(seconds: float) -> float:
        return seconds * (1 + rng.uniform(-NOISE, NOISE))

    prefill = [
        PrefillSample(new, cached, noisy(_prefill_s(new, cached)))
        for new in (16, 64, 256, 512)
        for cached in (0, 512, 1024)
        for _ in range(6)
    ]
    decode = [
        DecodeSample(batch, batch * context + i * batch, noisy(_decode_s(batch, batch * context + i * batch)))
        for batch in (1, 2, 4, 8, 16)
        for context in (32, 1024)
        for i in range(30)
    ]
    mixed = [
        PrefillSample(new, 0, noisy(_mixed_s(new, batch, context)), batch, context)
        for new in (64, 256, 512)
        for batch, context in ((2, 400), (8, 4_000))
        for _ in range(6)
    ]
    beside = [
        Beside(
            prompts=[PrefillSample(it.new_tokens, 0, slower * it.seconds, it.decodes, it.context_tokens)],
            prompts_alone=[PrefillSample(it.new_tokens, 0, slower * noisy(_prefill_s(it.new_tokens, 0)))],
            decodes_alone=[
                DecodeSample(
                    it.decodes, it.context_tokens, slower * noisy(_decode_s(it.decodes, it.context_tokens))
                )
            ],
        )
        for it, slower in zip(mixed, cycle((1.0, 1.4, 0.8)))
    ]
    return Samples(
        prefill=prefill,
        decode=decode,
        beside=beside,
        dispatch_s=[0.0011, 0.0010, 0.0012],
        handoff_s=[0.0005],
    )


def test_an_engine_that_is_known_is_found_again() -> None:
    fitted = fit_profile(_samples(), kv_tokens=9_000, kv_bytes_per_token=100)
    steps = FittedSteps(fitted.profile)
    for new, cached in ((16, 0), (100, 0), (512, 1024)):
        assert steps.step_s((Chunk(new, cached),), 0, 0) == pytest.approx(_prefill_s(new, cached), rel=0.06)
    for batch, context in ((1, 500), (3, 900), (16, 8_000)):
        assert steps.step_s((), batch, context) == pytest.approx(_decode_s(batch, context), rel=0.04)
    for batch, context in ((4, 400), (8, 8_000)):
        mixed_s = _mixed_s(256, batch, context)
        assert steps.step_s((Chunk(256, 0),), batch, context) == pytest.approx(mixed_s, rel=0.05)
    assert fitted.profile.dispatch_s == 0.0011
    assert fitted.profile.handoff_fixed_s == 0.0005
    assert fitted.profile.kv_tokens == 9_000
    assert fitted.residuals.keys() == {"prefill", "decode", "mixed"}
    assert fitted.residuals["prefill"].median_absolute < NOISE
    assert fitted.residuals["decode"].median_absolute < NOISE


def test_too_little_is_said_to_be_too_little() -> None:
    samples = _samples()
    with pytest.raises(ClusterError, match="no decode step"):
        fit_profile(Samples(prefill=samples.prefill), kv_tokens=1, kv_bytes_per_token=1)
    with pytest.raises(ClusterError, match="too few prompts"):
        fit_profile(Samples(decode=samples.decode), kv_tokens=1, kv_bytes_per_token=1)


def test_two_reports_in_a_row_are_one_step() -> None:
    """Signs of life are none, and after a rest the gap says nothing."""
    watch = StepWatch()

    def beat(now_s: float, steps: int, running: int, busy_s: float, decoded: int) -> None:
        stats = WorkerStats(
            steps=steps,
            running=running,
            decode_s_total=busy_s,
            decode_tokens_total=decoded,
            decode_steps_total=steps,
        )
        watch(now_s, Heartbeat(WorkerId("w"), 1, stats), [])

    beat(1.00, 1, 2, 0.010, 2)
    beat(1.01, 2, 2, 0.019, 4)
    beat(1.20, 2, 0, 0.019, 4)
    beat(9.00, 3, 1, 0.030, 5)
    first, second = watch.take()
    assert (first.decode_tokens, first.prefill_tokens) == (2, 0)
    assert first.busy_s == pytest.approx(0.009)
    assert first.gap_s == pytest.approx(0.01)
    assert second.gap_s is None
    assert watch.take() == []


@pytest.mark.parametrize("longest", [256, 4096, 131_072])
def test_lengths_fit_the_model(longest: int) -> None:
    lengths = lengths_for(longest, 16)
    assert lengths.prompt[1] + lengths.output[1] < longest
    assert 0 < lengths.prompt[0] <= lengths.prompt[1]
    assert lengths.shared % 16 == 0


def test_workloads_of_a_comparison_are_the_same_for_the_same_seed() -> None:
    lengths = Lengths(prompt=(16, 64), output=(4, 8), shared=32)
    assert list(poisson(2.0, 30, lengths, 5)) == list(poisson(2.0, 30, lengths, 5))
    shared = list(sharing(2.0, 30, lengths, 5))
    assert shared != list(sharing(2.0, 30, lengths, 6))
    assert len({arrival.hash_ids for arrival in shared}) > 1
    assert all(arrival.max_tokens == arrival.output_tokens for arrival in shared)


def test_a_slower_machine_scales_the_profile_of_its_steps() -> None:
    profile = fit_profile(_samples(), kv_tokens=1000, kv_bytes_per_token=64).profile
    spec = ClusterSpec(pools=(PoolSpec(name="mixed", role=Role.MIXED, profile=profile),))
    now = drifted(spec, mean_of([Drift(1.1, 0.9), Drift(1.3, 1.1)]))
    assert now.pools[0].profile is not None
    then_steps, now_steps = FittedSteps(profile), FittedSteps(now.pools[0].profile)
    chunk = (Chunk(100, 300),)
    assert now_steps.step_s(chunk, 0, 0) == pytest.approx(1.2 * then_steps.step_s(chunk, 0, 0))
    assert now_steps.step_s((), 5, 700) == pytest.approx(then_steps.step_s((), 5, 700))


def test_a_mixed_step_never_pays_less_than_its_context() -> None:
    """Decodes that vanish in a prompt but for their context: the factor stays positive, the prompt's is
    kept."""
    samples = _samples()
    samples.beside = [
        Beside(prompts=[PrefillSample(new, 0, _prefill_s(new, 0) - 0.001 + 3e-7 * context, batch, context)])
        for new in (64, 256, 512)
        for batch, context in ((2, 400), (8, 4_000))
    ]
    profile = fit_profile(samples, kv_tokens=9_000, kv_bytes_per_token=100).profile
    assert profile.mixed_decode_factor == 0.05
    assert profile.mixed_prefill_factor == pytest.approx(0.95, abs=0.05)


@pytest.mark.parametrize("others", [0, 3, VISITS, 23])
def test_single_prompts_come_in_visits_with_everything_else_once_in_between(others: int) -> None:
    async def nothing(_first: int, _second: int) -> None: ...

    visited: list[Experiment] = [(nothing, n, 0) for n in (1, 2)]
    rest: list[Experiment] = [(nothing, 100 + n, 0) for n in range(others)]
    plan = [first for _, first, _ in interleaved(visited, rest)]
    assert plan.count(1) == plan.count(2) == VISITS
    assert [n for n in plan if n >= 100] == [n for _, n, _ in rest]
    starts = [place for place, n in enumerate(plan) if n == 1]
    shares = [after - before - 2 for before, after in zip(starts, [*starts[1:], len(plan)], strict=True)]
    assert max(shares) - min(shares) <= 1


def test_rows_that_scatter_are_read_off_the_line_through_their_neighbours() -> None:
    rng = random.Random(5)
    counts = (1, 13, 29, 45, 67, 90, 117, 150, 201, 262, 331, 410, 487, 512)
    noisy = [(count, _prefill_s(count, 0) * (1 + rng.gauss(0, 0.1))) for count in counts]
    found = smoothed(noisy)
    assert [count for count, _ in found] == list(counts)
    assert found[0] == pytest.approx(noisy[0]), "no neighbour near enough"

    def off(rows: Sequence[tuple[int, float]]) -> float:
        return fmean((seconds / _prefill_s(count, 0) - 1) ** 2 for count, seconds in rows[3:]) ** 0.5

    assert off(found) < 0.7 * off(noisy)
    exact = [(count, 0.003 + 1e-4 * count) for count in counts]
    assert dict(smoothed(exact)) == pytest.approx(dict(exact)), "what is straight stays as it is"
    assert smoothed([(4, 0.5)]) == ((4, 0.5),)


def test_looks_at_a_machine_that_keeps_its_speed_are_taken_together() -> None:
    rng = random.Random(2)
    looks = [Drift(1.2 + rng.gauss(0, 0.06), 0.9 + rng.gauss(0, 0.06)) for _ in range(40)]
    found = [mean_of(possible) for possible in speeds(looks)]
    assert len(found) == len(looks) - 1
    assert all(abs(it.prefill - 1.2) < 0.05 and abs(it.decode - 0.9) < 0.05 for it in found)


def test_looks_at_a_machine_that_drifts_count_where_they_are() -> None:
    looks = [Drift(1.0 + 0.01 * i, 1.0) for i in range(40)]
    found = speeds(looks)
    assert found[4] == (Drift(1.04, 1.0), Drift(1.05, 1.0))
    assert found[0] == tuple(looks[:2]) and found[-1] == tuple(looks[-2:])


def test_between_looks_at_a_machine_that_jumps_both_speeds_are_possible() -> None:
    looks = [Drift(1.0 + 0.5 * (i // 10 % 2), 1.0) for i in range(40)]
    found = speeds(looks)
    assert found[4] == (Drift(1.0, 1.0), Drift(1.0, 1.0))
    assert found[9] == (Drift(1.0, 1.0), Drift(1.5, 1.0))
    assert speeds([Drift(1.0, 2.0), Drift(3.0, 4.0)]) == [(Drift(1.0, 2.0), Drift(3.0, 4.0))]


@pytest.mark.parametrize("count", [2, 5, 6, 7, 13, 49])
def test_every_load_has_as_many_possible_speeds_as_the_others(count: int) -> None:
    rng = random.Random(count)
    looks = [Drift(rng.uniform(0.9, 1.1), rng.uniform(0.9, 1.1)) for _ in range(count)]
    found = speeds(looks)
    assert len(found) == count - 1
    assert len({len(possible) for possible in found}) == 1
    for i, possible in enumerate(found):
        assert {looks[i], looks[i + 1]} <= set(possible) <= set(looks)
