"""Workloads out of workloads: instants, lengths, ids and sessions after each change."""

from __future__ import annotations

import sys
from collections import Counter
from itertools import pairwise
from math import isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.domain.errors import SpecError
from diptych.workload import transform
from diptych.workload.blocks import chained, reblocked
from diptych.workload.ceilings import prefix_ceiling
from diptych.workload.making.synthetic import workload as synthetic
from diptych.workload.mix import Part, Shift, mix
from diptych.workload.record import Arrival, Workload


def never(name: str) -> Workload:
    raise AssertionError(name)


def of(arrivals: list[Arrival], block_tokens: int = 512, name: str = "test") -> Workload:
    return Workload(name, lambda: iter(arrivals), block_tokens, len(arrivals))


def at(t_s: float, tokens: int = 600, ids: tuple[int, ...] = ()) -> Arrival:
    return Arrival(t_s=t_s, input_tokens=tokens, output_tokens=7, hash_ids=ids)


CHAT = "poisson,rate=2,sessions=chat,turns=4,system=700,input=150,output=80,requests=400,seed=5"
shared = st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=6)


def from_blocks(prompts: list[list[int]], block_tokens: int, last: int) -> Workload:
    """Prompts whose full blocks hold these contents; a last partly filled one belongs to each alone."""
    arrivals: list[Arrival] = []
    for number, blocks in enumerate(prompts):
        ids = (*chained(blocks), *((1000 + number,) if last else ()))
        tokens = max(1, len(blocks) * block_tokens + last)
        arrivals.append(at(float(number), tokens, ids if ids else ()))
    return of(arrivals, block_tokens)


def test_rate_is_scaled_and_pauses_stay() -> None:
    source = synthetic(CHAT, never)
    for before, after in zip(source, transform.scale_rate(source, 4), strict=True):
        assert after.t_s == before.t_s / 4
        assert after.delay_s == before.delay_s


def test_to_rate_meets_the_rate() -> None:
    scaled = transform.to_rate(synthetic("gamma,rate=3,cv=2,input=5,output=5,requests=500", never), 12.0)
    assert isclose(transform.extent(scaled).rate_rps, 12.0)
    with pytest.raises(SpecError, match="no times to scale"):
        transform.to_rate(of([at(0), at(0)]), 1.0)


@pytest.mark.parametrize("factor", [0.1, 0.37, 1.0, 1.3, 4.0])
def test_scaled_prompts_share_as_much_as_before(factor: float) -> None:
    source = synthetic(CHAT, never)
    scaled = transform.scale_lengths(source, factor, 2.0)
    for before, after in zip(source, scaled, strict=True):
        assert len(after.hash_ids) == len(before.hash_ids)
        assert len(after.hash_ids) == -(-after.input_tokens // scaled.block_tokens)
        assert abs(after.input_tokens - before.input_tokens * factor) <= 1 + len(after.hash_ids) / 2
        assert after.output_tokens == 2 * before.output_tokens
    was, now = prefix_ceiling(source), prefix_ceiling(scaled)
    assert abs(was.hit_token_share - now.hit_token_share) < 0.02


def test_cut_keeps_what_is_inside() -> None:
    source = of([at(t_s / 2) for t_s in range(20)])
    assert [a.t_s for a in transform.cut(source, from_s=2, to_s=4)] == [0, 0.5, 1, 1.5]
    few = transform.cut(source, requests=3)
    assert (len(list(few)), few.requests) == (3, 3)
    with pytest.raises(SpecError, match="empty"):
        transform.cut(source, from_s=4, to_s=4)


def test_repeat_goes_on_at_the_same_rate_with_ids_of_its_own() -> None:
    source = synthetic(CHAT, never)
    found = list(transform.repeat(source, 1000))
    assert found[:400] == list(source)
    assert len(found) == 1000
    assert [a.t_s for a in found] == sorted(a.t_s for a in found)
    assert {a.session_id for a in found[:400]}.isdisjoint(a.session_id for a in found[400:])
    once, thrice = prefix_ceiling(source), prefix_ceiling(transform.repeat(source, 1200))
    assert thrice.hit_blocks == 3 * once.hit_blocks
    assert thrice.distinct_blocks == 3 * once.distinct_blocks


def test_a_million_requests_need_no_memory() -> None:
    """Nothing of the repeated workload is kept: live objects before and after differ by a few."""
    reader = iter(transform.repeat(of([at(n / 7, ids=(n, n + 1)) for n in range(50)]), 1_000_000))
    next(reader)
    before = sys.getallocatedblocks()
    count = sum(1 for _ in reader)
    assert count == 999_999
    assert abs(sys.getallocatedblocks() - before) < 2000


def test_sessions_can_be_dropped() -> None:
    found = list(transform.without_sessions(synthetic(CHAT, never)))
    assert all(a.session_id is None and a.delay_s is None for a in found)
    assert any(a.hash_ids for a in found)


def test_sort_puts_in_order_and_begins_at_zero() -> None:
    found = list(transform.sort(of([at(3), at(-1), at(1)])))
    assert [a.t_s for a in found] == [0, 2, 4]


def test_changes_are_made_while_reading() -> None:
    """Nothing is read until somebody reads, and then only as much as is wanted."""
    read: list[int] = []

    def arrivals():
        for number in range(10**9):
            read.append(number)
            yield at(float(number))

    endless = Workload("endless", arrivals)
    chain = transform.cut(transform.scale_rate(transform.keep(endless, bool, "all"), 2), requests=3)
    assert read == []
    assert len(list(chain)) == 3
    assert len(read) <= 4


@given(shared, st.sampled_from([(32, 16), (512, 16), (48, 16)]), st.integers(0, 15))
def test_smaller_blocks_lose_nothing(prompts: list[list[int]], sizes: tuple[int, int], last: int) -> None:
    old, new = sizes
    source = from_blocks(prompts, old, last)
    fine = reblocked(source, new)
    for before, after in zip(source, fine, strict=True):
        assert len(after.hash_ids) == (-(-before.input_tokens // new) if before.hash_ids else 0)
    was, now = prefix_ceiling(source), prefix_ceiling(fine)
    assert now.hit_tokens == was.hit_tokens


@given(shared, st.sampled_from([(16, 32), (16, 512), (512, 768)]), st.integers(0, 15))
def test_larger_blocks_share_whole_ones_only(
    prompts: list[list[int]], sizes: tuple[int, int], last: int
) -> None:
    """Exactly the tokens in blocks of the new size that the old ids cover from the start."""
    old, new = sizes
    source = from_blocks(prompts, old, last)
    coarse = list(reblocked(source, new))
    originals = list(source)
    for place, arrival in enumerate(coarse):
        assert len(arrival.hash_ids) == (-(-arrival.input_tokens // new) if originals[place].hash_ids else 0)
        for other in range(place):
            common = _common(originals[place].hash_ids, originals[other].hash_ids) * old
            expected = common // new
            assert _common(arrival.hash_ids, coarse[other].hash_ids) in (
                (expected,) if common < originals[place].input_tokens else (expected, expected + 1)
            )


def _common(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count


def test_wrong_block_sizes() -> None:
    with pytest.raises(SpecError, match="block_tokens: 0"):
        reblocked(of([at(0)]), 0)


def test_a_mix_has_its_shares_rate_and_order() -> None:
    chat = synthetic(CHAT + ",block_tokens=16", never)
    code = synthetic("gamma,rate=9,cv=3,input=2000,output=5,requests=900,cached=0.5,block_tokens=24", never)
    mixed = mix([Part(chat, 3), Part(code, 1)], rate_rps=20, requests=4000)
    found = list(mixed)
    assert mixed.block_tokens == 8
    assert len(found) == 4000
    assert [a.t_s for a in found] == sorted(a.t_s for a in found)
    chats = [a for a in found if a.session_id is not None]
    assert abs(len(chats) / 4000 - 0.75) < 0.03
    assert abs(4000 / found[-1].t_s / 20 - 1) < 0.05
    codes = [a for a in found if a.session_id is None]
    assert not {i for a in chats for i in a.hash_ids} & {i for a in codes for i in a.hash_ids}


def test_a_mix_keeps_sessions_of_both_apart() -> None:
    chat = synthetic(CHAT, never)
    names = Counter(a.session_id for a in mix([Part(chat, 1), Part(chat, 1)]))
    assert set(names.values()) == set(Counter(a.session_id for a in chat).values())
    assert len(names) == 2 * len({a.session_id for a in chat})


def test_shares_shift_from_one_to_the_other() -> None:
    long = of([at(float(n), 9000) for n in range(100)], name="long")
    short = of([at(float(n), 10) for n in range(100)], name="short")
    found = list(
        mix([Part(long, 1, 0), Part(short, 0, 1)], rate_rps=10, requests=3000, shift=Shift(100, 200))
    )
    share = [
        sum(a.input_tokens == 9000 for a in found if start <= a.t_s < start + 50) / 500
        for start in range(0, 300, 50)
    ]
    assert share[:2] == [1.0, 1.0]
    assert share[4:] == [0.0, 0.0]
    assert abs(share[2] - 0.75) < 0.02
    assert abs(share[3] - 0.25) < 0.02


@pytest.mark.parametrize(
    ("parts", "options", "word"),
    [
        ([], {}, "names no workload"),
        ([Part(of([at(0), at(1)]), -1)], {}, "share"),
        ([Part(of([at(0), at(1)]), 0)], {}, "share"),
        ([Part(of([at(0), at(1)]), 1, 0.5)], {}, "shift"),
        ([Part(of([at(0), at(1)]), 1)], {"shift": Shift(5, 5)}, "shift"),
        ([Part(of([at(0), at(1)]), 1)], {"rate_rps": 0}, "rate"),
        ([Part(of([at(0), at(1)]), 1)], {"requests": 0}, "requests"),
        ([Part(of([at(0), at(0)]), 1)], {}, "come at once"),
        ([Part(of([]), 1)], {}, "no requests"),
    ],
)
def test_wrong_mixes(parts: list[Part], options: dict, word: str) -> None:
    with pytest.raises(SpecError, match=word):
        mix(parts, **options)


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=30).map(sorted), st.floats(0.01, 100))
def test_scaling_keeps_order(instants: list[float], factor: float) -> None:
    found = [a.t_s for a in transform.scale_rate(of([at(t_s) for t_s in instants]), factor)]
    assert all(before <= after for before, after in pairwise(found))
