"""What a load says of a profile: speed, rows of its tables, company; and which step computed what."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from statistics import fmean

import pytest

from diptych.adapters.toy import ToyEngine
from diptych.bench.house.anchor import MOST, Drift, Service, drifted
from diptych.bench.house.ask import House
from diptych.bench.house.rows import PRIOR_MOMENTS, Served, with_rows
from diptych.bench.house.steps import Step, StepWatch
from diptych.domain.cluster import ClusterSpec, PoolSpec
from diptych.domain.fleet import DecodeFit, PrefillFit, ProfileSpec
from diptych.domain.ids import WorkerId
from diptych.domain.worker import Role
from diptych.performance.steps import Chunk, FittedSteps
from diptych.runtime.cluster import Cluster
from diptych.workload.record import Arrival
from support.toy_cluster import toy_spec

PROMPT_ROWS = tuple((tokens, 0.002 + 1e-4 * tokens) for tokens in (1, 45, 90, 150, 262, 410, 512))
BATCH_ROWS = tuple((batch, 0.005 + 2e-4 * batch) for batch in (1, 2, 4, 8, 16, 32))
TRUE = ProfileSpec(
    prefill=PrefillFit(by_tokens=PROMPT_ROWS, per_token2_s=5e-8),
    decode=(DecodeFit(by_batch=BATCH_ROWS, per_context_token_s=2e-7),),
    kv_tokens=100_000,
    contended_factor=1.25,
)
CONTEXT_TOKENS = 600
MIXED = WorkerId("m")
SERVICE = Service({MIXED: "mixed"}, CONTEXT_TOKENS)


def spec_of(profile: ProfileSpec) -> ClusterSpec:
    return ClusterSpec(pools=(PoolSpec(name="mixed", role=Role.MIXED, profile=profile),))


def profile_of(spec: ClusterSpec) -> ProfileSpec:
    (pool,) = spec.pools
    assert pool.profile is not None
    return pool.profile


def dented(rows: tuple[tuple[int, float], ...], dents: dict[int, float]) -> tuple[tuple[int, float], ...]:
    return tuple((key, seconds * dents.get(key, 1.0)) for key, seconds in rows)


def load(
    count: int, drift: Drift, noise: float, worker: WorkerId = MIXED, start_s: float = 0.0
) -> list[Step]:
    """Steps as a worker of the `TRUE` profile takes them, so much slower."""
    rng = random.Random(count)
    model = FittedSteps(profile_of(drifted(spec_of(TRUE), drift)))
    steps, now_s = [], start_s
    for _ in range(count):
        prompt = rng.random() < 0.2
        chunks = (Chunk(rng.randint(20, 512), rng.choice((0, 512))),) if prompt else ()
        decodes = 0 if prompt else rng.randint(1, 12)
        taken_s = model.step_s(chunks, decodes, decodes * CONTEXT_TOKENS) * (1 + rng.uniform(-noise, noise))
        now_s += taken_s
        steps.append(Step(worker, now_s, chunks, decodes, taken_s, taken_s))
    return steps


def off(found: ProfileSpec, true: ProfileSpec) -> list[float]:
    """Relative errors at sizes that are served, rows or not."""
    one, other = FittedSteps(found), FittedSteps(true)
    sizes: list[tuple[Sequence[Chunk], int]] = [((), batch) for batch in range(1, 11)]
    sizes += [((Chunk(tokens, 0),), 0) for tokens in range(60, 512, 30)]
    return [
        one.step_s(chunks, decodes, decodes * CONTEXT_TOKENS)
        / other.step_s(chunks, decodes, decodes * CONTEXT_TOKENS)
        - 1
        for chunks, decodes in sizes
    ]


def test_dents_of_a_calibration_vanish_in_service() -> None:
    """The dents of slow moments among small batches and prompts, and a machine that is slower by now."""
    before = TRUE.model_copy(
        update={
            "prefill": TRUE.prefill.model_copy(
                update={"by_tokens": dented(PROMPT_ROWS, {90: 1.25, 262: 0.85})}
            ),
            "decode": (
                TRUE.decode[0].model_copy(update={"by_batch": dented(BATCH_ROWS, {2: 1.2, 4: 1.25})}),
            ),
        }
    )
    now = Drift(1.2, 0.9)
    found = profile_of(SERVICE.profiled(spec_of(before), load(4_000, now, 0.2)))
    true = profile_of(drifted(spec_of(TRUE), now))
    errors, errors_before = off(found, true), off(profile_of(drifted(spec_of(before), now)), true)
    assert max(map(abs, errors_before)) > 0.15
    assert max(map(abs, errors)) < 0.06
    assert fmean(map(abs, errors)) < 0.4 * fmean(map(abs, errors_before))


@pytest.mark.parametrize("now", [Drift(1.25, 0.8), Drift(0.7, 1.4)])
def test_a_slower_machine_is_found_and_a_few_steps_leave_the_rows_alone(now: Drift) -> None:
    steps = load(40, now, 0.0)
    assert SERVICE.drift(spec_of(TRUE), steps) == pytest.approx(now)
    found = profile_of(SERVICE.profiled(spec_of(TRUE), steps))
    assert max(map(abs, off(found, profile_of(drifted(spec_of(TRUE), now))))) < 1e-9


def test_what_company_costs_is_no_speed() -> None:
    """Steps beside another worker's take a quarter longer by the profile, and the machine is as fast as
    before."""
    alone = load(300, Drift(1.0, 1.0), 0.0)
    beside = [
        step._replace(busy_s=1.25 * step.busy_s, gap_s=1.25 * step.taken_s, ended_s=1e4 + i)
        for i, step in enumerate(alone)
    ]
    other = WorkerId("n")
    company = [Step(other, 1e4 + i, (), 1, 1.0, 1.0) for i in range(300)]
    service = Service({MIXED: "mixed", other: "elsewhere"}, CONTEXT_TOKENS)
    assert service.drift(spec_of(TRUE), [*alone, *beside, *company]) == pytest.approx(Drift(1.0, 1.0))


def test_a_broken_measurement_has_a_limit_and_none_says_nothing() -> None:
    assert SERVICE.drift(spec_of(TRUE), []) == Drift(1.0, 1.0)
    steps = [step._replace(gap_s=100 * step.taken_s) for step in load(50, Drift(1.0, 1.0), 0.0)]
    assert SERVICE.drift(spec_of(TRUE), steps) == Drift(MOST, MOST)
    assert SERVICE.profiled(spec_of(TRUE), []) == spec_of(TRUE.model_copy(update={"contended_factor": 1.0}))


def decode(batch: int, slower: float, moment: int = 0) -> Served:
    """As if the profile had no slope over the context."""
    return Served(moment, (), batch, 0, slower * FittedSteps(TRUE).step_s((), batch, 0))


def prompt(tokens: int, slower: float, moment: int = 0) -> Served:
    chunks = (Chunk(tokens, 0),)
    return Served(moment, chunks, 0, 0, slower * FittedSteps(TRUE).step_s(chunks, 0, 0))


def batch_factors(served: Sequence[Served]) -> dict[int, float]:
    rows = dict(with_rows(TRUE, served).decode[0].by_batch)
    return {batch: rows[batch] / seconds for batch, seconds in BATCH_ROWS}


@pytest.mark.parametrize("repeats", [1, 20])
def test_a_row_moves_half_of_the_way_for_as_many_moments_as_the_prior(repeats: int) -> None:
    """However many steps a moment has: they are alike."""
    served: list[Served] = []
    for moment in range(PRIOR_MOMENTS):
        served += [decode(1, 1.0, moment)] * 1_000 * repeats
        served += [decode(4, 1.2, moment)] * repeats
    factors = batch_factors(served)
    assert factors.pop(4) == pytest.approx(1.1, rel=0.005)
    assert list(factors.values()) == pytest.approx([1.0] * len(factors), rel=0.005)


def test_a_step_between_two_rows_moves_both() -> None:
    served = [
        it for moment in range(100) for it in ([decode(1, 1.0, moment)] * 100 + [decode(6, 1.2, moment)])
    ]
    factors = batch_factors(served)
    assert factors[4] == pytest.approx(factors[8]) and factors[4] > 1.1


def test_large_batches_of_slow_moments_do_not_make_their_rows_dearer() -> None:
    """Requests gather while the machine is slow: the profile was right, and stays so."""
    served: list[Served] = []
    for moment in range(60):
        slow = moment % 3 == 0
        served += [
            decode(batch, 1.5 if slow else 0.9, moment) for batch in ((6, 7, 8) if slow else (1, 2, 3))
        ]
    assert list(batch_factors(served).values()) == pytest.approx([1.0] * len(BATCH_ROWS), abs=1e-6)


def test_steps_beyond_a_table_move_none_of_its_rows() -> None:
    served = [it for moment in range(50) for it in (prompt(4_000, 2.0, moment), decode(50, 0.5, moment))]
    assert with_rows(TRUE, served) == TRUE


def test_a_profile_without_tables_has_no_rows_to_move() -> None:
    plain = ProfileSpec(prefill=PrefillFit(fixed_s=1.0), decode=(DecodeFit(fixed_s=1.0),), kv_tokens=1)
    assert with_rows(plain, [Served(0, (Chunk(5, 0),), 0, 0, 2.0), Served(0, (), 5, 0, 2.0)]) == plain


@pytest.mark.parametrize(
    "spec", [toy_spec(1, 1, 0), toy_spec(0, 0, 1)], ids=["1 prefill + 1 decode", "1 mixed"]
)
async def test_each_step_knows_which_tokens_of_which_prompt_it_computed(spec: ClusterSpec) -> None:
    """Real workers: prompts longer than a step's budget, several at once, and prefixes that are cached."""
    engine = ToyEngine(vocab_size=1000, prefill_s_per_token=0.0002, decode_s_per_step=0.001)
    watch = StepWatch()
    async with Cluster(spec, engine=engine, journal=watch) as cluster:
        house = House(cluster)
        budget, block = spec.pools[0].token_budget, spec.kv.block_tokens
        await house.together([Arrival(t_s=0, input_tokens=4, output_tokens=2)])
        watch.take()
        lengths = (2 * budget + 5, 3, budget // 2)
        await house.together([Arrival(t_s=0, input_tokens=n, output_tokens=2) for n in lengths])
        first = await _chunks(watch)
        assert sorted(_ends(first)) == sorted(lengths)
        assert all(sum(chunk.new_tokens for chunk in chunks) <= budget for chunks in first)
        again = Arrival(t_s=0, input_tokens=2 * block + 3, output_tokens=2, hash_ids=(7,))
        await house.together([again], trace_block_tokens=2 * block)
        assert await _chunks(watch) == [(Chunk(2 * block + 3, 0),)]
        await house.together([again], trace_block_tokens=2 * block)
        assert await _chunks(watch) == [(Chunk(3, 2 * block),)]


async def _chunks(watch: StepWatch) -> list[tuple[Chunk, ...]]:
    await asyncio.sleep(0.05)
    return [step.chunks for step in watch.take() if step.chunks]


def _ends(steps: Sequence[tuple[Chunk, ...]]) -> list[int]:
    """Where prompts end: what no later chunk goes on from."""
    ends: list[int] = []
    for new_tokens, cached_tokens in (chunk for chunks in steps for chunk in chunks):
        if cached_tokens:
            ends.remove(cached_tokens)
        ends.append(cached_tokens + new_tokens)
    return ends
