"""Made workloads: the text form, distributions with the figures they promise, sessions that share prefixes.

Tolerances are several standard errors of the seeded sample, so that another seed would pass as well.
"""

from __future__ import annotations

from itertools import islice, pairwise
from math import isclose
from random import Random
from statistics import fmean, median, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.domain.errors import SpecError
from diptych.workload.ceilings import prefix_ceiling
from diptych.workload.making import lengths, processes
from diptych.workload.making.curve import RateCurve
from diptych.workload.making.sessions import agent_growth, small_poisson
from diptych.workload.making.synthetic import workload
from diptych.workload.record import Arrival, Workload
from diptych.workload.statistics import statistics

N = 20_000
RATES = st.just(0.0) | st.floats(1e-3, 50)


def no_files(name: str) -> Workload:
    raise AssertionError(f"{name} is opened")


def three(name: str) -> Workload:
    arrivals = [Arrival(t_s=0, input_tokens=n, output_tokens=10 * n) for n in (1, 2, 3)]
    return Workload(name, lambda: iter(arrivals))


def made(text: str) -> list[Arrival]:
    return list(workload(text, three))


def gaps(instants: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(instants)]


@pytest.mark.parametrize(
    ("stream", "cv", "slack"),
    [
        (processes.poisson(4, Random(1)), 1.0, 0.03),
        (processes.gamma(4, 0.5, Random(1)), 0.5, 0.02),
        (processes.gamma(4, 3.0, Random(1)), 3.0, 0.3),
        (processes.constant(4), 0.0, 1e-6),
    ],
)
def test_gaps_have_the_rate_and_the_cv(stream: islice, cv: float, slack: float) -> None:
    found = gaps(list(islice(stream, N)))
    assert abs(fmean(found) * 4 - 1) < 5 * max(cv, 1e-6) / N**0.5
    assert abs(pstdev(found) / fmean(found) - cv) < slack


def test_bursts_keep_the_mean_rate_and_pause() -> None:
    instants = list(islice(processes.bursts(5, on_s=2, off_s=8, rng=Random(1)), N))
    assert abs(N / instants[-1] / 5 - 1) < 0.15
    found = gaps(instants)
    assert pstdev(found) / fmean(found) > 3
    assert fmean(gap < 1 / 5 for gap in found) > 0.96  # Poisson at this rate: 0.63


def test_a_ramp_follows_its_points() -> None:
    curve = RateCurve([(0, 0), (100, 100), (200, 0)])
    instants = list(processes.ramp(curve, Random(1)))
    assert abs(len(instants) - 10_000) < 500
    assert instants == sorted(instants)
    early = sum(t_s < 50 for t_s in instants)
    assert abs(early - 1250) < 180


@given(
    st.lists(st.tuples(st.floats(0.01, 100), RATES), min_size=1, max_size=6),
    RATES,
    st.floats(0, 1e4),
)
def test_the_inverse_of_the_integral_is_its_inverse(
    steps: list[tuple[float, float]], first: float, area: float
) -> None:
    points, t_s = [(0.0, first)], 0.0
    for step_s, rate in steps:
        t_s += step_s
        points.append((t_s, rate))
    curve = RateCurve(points)
    when = curve.when(area)
    if when is None:
        assert curve.area(1e12) <= area * (1 + 1e-9)
    else:
        assert isclose(curve.area(when), area, rel_tol=1e-6, abs_tol=1e-6)


@pytest.mark.parametrize("points", [[], [(1, 2)], [(0, 1), (0, 2)], [(0, -1)], [(0, float("nan"))]])
def test_wrong_curves(points: list[tuple[float, float]]) -> None:
    with pytest.raises(SpecError, match="points"):
        RateCurve(points)


def test_lognormal_lengths_have_their_median_p90_and_mean() -> None:
    rng = Random(1)
    sigma = lengths.sigma_from_p90(20_000, 88_000)
    drawn = sorted(lengths.lognormal(20_000, sigma)(rng) for _ in range(N))
    assert abs(drawn[N // 2] / 20_000 - 1) < 0.05
    assert abs(drawn[N * 9 // 10] / 88_000 - 1) < 0.06
    mean = lengths.lognormal(200, lengths.sigma_from_mean(200, 527))
    assert abs(fmean(mean(rng) for _ in range(N)) / 527 - 1) < 0.08
    cut = lengths.lognormal(200, 2.0, least=100, most=400)
    assert {min(found := [cut(rng) for _ in range(N)]), max(found)} == {100, 400}


def test_empirical_lengths_draw_pairs_that_belong_together() -> None:
    found = made("poisson,rate=1,lengths=three,requests=300")
    assert {(a.input_tokens, a.output_tokens) for a in found} == {(1, 10), (2, 20), (3, 30)}
    apart = made("poisson,rate=1,input=empirical(three),output=empirical(three),requests=300")
    assert {a.output_tokens for a in apart} == {10, 20, 30}
    assert len({(a.input_tokens, a.output_tokens) for a in apart}) == 9


def test_the_same_text_gives_the_same_arrivals() -> None:
    text = "synthetic:poisson,rate=4,input=uniform(10,20),output=5,requests=50,seed=3"
    one = workload(text, no_files)
    assert list(one) == list(one) == list(workload(text, no_files))
    assert list(one) != made(text.replace("seed=3", "seed=4"))
    assert one.requests == 50


def test_another_rate_keeps_the_lengths() -> None:
    slow, fast = (made(f"poisson,rate={rate},input=uniform(1,999),output=5,requests=50") for rate in (1, 10))
    assert [a.input_tokens for a in slow] == [a.input_tokens for a in fast]
    assert isclose(slow[-1].t_s, 10 * fast[-1].t_s)


def test_cached_is_the_share_that_a_cache_finds() -> None:
    text = "poisson,rate=4,input=lognormal(median=20000,p90=88000),output=80,cached=0.857,requests=3000"
    found = prefix_ceiling(workload(text, no_files))
    assert abs(found.hit_token_share - 0.857) < 0.01
    several = prefix_ceiling(workload(text + ",prefixes=8", no_files))
    assert abs(several.hit_token_share - 0.857) < 0.05  # each prefix is once new
    assert several.distinct_blocks > found.distinct_blocks


def test_duration_ends_a_workload() -> None:
    found = made("constant,rate=2,input=1,output=1,duration_s=10")
    assert [a.t_s for a in found] == [n / 2 for n in range(20)]


def test_once_is_all_at_once() -> None:
    assert {a.t_s for a in made("once,input=1,output=1,requests=5")} == {0.0}


def test_k_and_m_are_factors() -> None:
    assert made("once,input=64k,output=1.5k,requests=1")[0].input_tokens == 64_000


def test_chats_grow_by_what_was_said() -> None:
    found = made(
        "poisson,rate=1,sessions=chat,turns=5,system=1100,input=100,output=50,requests=2000,block_tokens=16"
    )
    by_session: dict[str | None, list[Arrival]] = {}
    for arrival in found:
        by_session.setdefault(arrival.session_id, []).append(arrival)
    system = found[0].hash_ids[: 1100 // 16]
    for turns in by_session.values():
        assert [a.input_tokens for a in turns] == [1200 + 150 * n for n in range(len(turns))]
        assert turns[0].delay_s is None
        assert all(a.delay_s is not None for a in turns[1:])
        assert all(a.hash_ids[: len(system)] == system for a in turns)
        for before, after in pairwise(turns):
            shared = before.input_tokens // 16
            assert before.hash_ids[:shared] == after.hash_ids[:shared]
            assert not set(before.hash_ids[shared:]) & set(after.hash_ids)
    lengths_of = [len(turns) for turns in by_session.values()]
    assert abs(fmean(lengths_of) - 5) < 5 * 4.5 / len(lengths_of) ** 0.5


def test_agents_have_the_public_totals() -> None:
    """7.83 calls a turn, 3.95 turns a session, 67.8 K prompt tokens of which 85.7 % cached, 527 of output."""
    source = workload("poisson,rate=0.1,sessions=agents,requests=20000,seed=2", no_files)
    found, ceiling = statistics(source), prefix_ceiling(source)
    assert abs(found.requests / found.sessions / (7.83 * 3.95) - 1) < 0.06
    assert abs(found.input_tokens.mean / 67_800 - 1) < 0.03
    assert abs(found.output_tokens.mean / 527 - 1) < 0.06
    assert abs(ceiling.hit_token_share - 0.857) < 0.01
    assert found.chained == found.requests - found.sessions


def test_agents_that_cannot_be_name_what_can() -> None:
    with pytest.raises(SpecError, match=r"system: 60000 tokens .* between \d+ and \d+"):
        agent_growth(67_800, 0.857, 7.83, 60_000)
    fresh, growth = agent_growth(67_800, 0.857, 7.83, 16_000)
    assert fresh > 0
    assert growth > 0


def test_small_poisson_numbers_have_mean_and_variance() -> None:
    rng = Random(1)
    drawn = [small_poisson(6.83, rng) for _ in range(N)]
    assert abs(fmean(drawn) - 6.83) < 0.1
    assert abs(pstdev(drawn) ** 2 - 6.83) < 0.4
    assert median(drawn) in (6, 7)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("poison,rate=4", ("did you mean 'poisson'",)),
        ("poisson,input=1,output=1", ("rate is missing",)),
        ("poisson,rte=4,input=1,output=1", ("unknown key 'rte'", "did you mean 'rate'")),
        ("poisson,rate=0,input=1,output=1", ("rate: 0",)),
        ("poisson,rate=-1,input=1,output=1", ("rate: -1",)),
        ("poisson,rate=nan,input=1,output=1", ("rate=nan", "finite")),
        ("poisson,rate=fast,input=1,output=1", ("rate=fast", "not a number")),
        ("poisson,rate=4,rate=5", ("rate is given twice",)),
        ("poisson,4", ("'4'", "key=value")),
        ("gamma,rate=4,input=1,output=1", ("cv is missing",)),
        ("poisson,rate=4,cv=2,input=1,output=1", ("unknown key 'cv'",)),
        ("poisson,rate=4,output=1", ("input is missing",)),
        ("poisson,rate=4,input=0,output=1", ("input", "0 is not possible")),
        ("poisson,rate=4,input=normal(5),output=1", ("input", "no distribution 'normal'", "lognormal")),
        ("poisson,rate=4,input=lognormal(median=5),output=1", ("input", "one of p90, mean, sigma")),
        ("poisson,rate=4,input=lognormal(median=5,p90=2),output=1", ("p90", "below the median")),
        ("poisson,rate=4,input=lognormal(medain=5,p90=9),output=1", ("did you mean 'median'",)),
        ("poisson,rate=4,input=uniform(9,5),output=1", ("max", "below min")),
        ("poisson,rate=4,input=uniform(1,2,output=1", ("parenthesis",)),
        ("poisson,rate=4,input=uniform(1,2)),output=1", ("parenthesis",)),
        ("poisson,rate=4,input=1,output=1,cached=1", ("cached=1", "below 1")),
        ("poisson,rate=4,input=1,output=1,requests=0", ("requests=0",)),
        ("poisson,rate=4,input=1,output=1,requests=1.5", ("whole number",)),
        ("poisson,rate=4,input=1,lengths=three", ("exclude each other",)),
        ("poisson,rate=4,sessions=chats,input=1,output=1", ("did you mean 'chat'",)),
        ("ramp,points=0;5,input=1,output=1", ("0:2;60:8",)),
        ("ramp,points=0:0,input=1,output=1", ("no request ever comes",)),
        ("once,input=1,output=1,duration_s=5", ("requests",)),
        ("poisson,rate=4,sessions=agents,system=60k", ("system",)),
    ],
)
def test_wrong_texts_name_the_key_and_the_nearest(text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(SpecError) as raised:
        workload(text, three)
    for word in words:
        assert word in str(raised.value), str(raised.value)


@given(st.text(alphabet="poisonrate=,();:.0123456789kM-", max_size=40))
def test_any_text_is_a_workload_or_refused(text: str) -> None:
    for body in (text, f"poisson,{text}", f"poisson,rate=4,output=1,input={text}"):
        try:
            found = workload(body, three)
            assert found.block_tokens >= 1
        except SpecError:
            pass
