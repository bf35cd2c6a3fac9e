"""Prompts: exact lengths, and prefixes exactly as shared as the workload says."""

from __future__ import annotations

from itertools import takewhile

import orjson
from hypothesis import given
from hypothesis import strategies as st

from diptych.bench.bodies import Bodies, Extras
from diptych.bench.prompts import TokenPrompts, WordPrompts, WordScale
from diptych.bench.schedule import Due

BLOCK = 8
LENGTHS = st.integers(1, 60)
IDS = st.lists(st.integers(0, 3), max_size=8)


def due(index: int, tokens: int, ids: list[int]) -> Due:
    return Due(
        index=index, t_s=0.0, input_tokens=tokens, output_tokens=7, hash_ids=tuple(ids), session_id=None
    )


def shared(a: list[int], b: list[int]) -> int:
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))))


@given(LENGTHS, IDS, LENGTHS, IDS)
def test_prompts_share_what_their_ids_share(a: int, a_ids: list[int], b: int, b_ids: list[int]) -> None:
    prompts = TokenPrompts(1 << 20, BLOCK, 1)
    one, two = orjson.loads(prompts.render(due(0, a, a_ids))), orjson.loads(prompts.render(due(1, b, b_ids)))
    assert (len(one), len(two)) == (a, b)
    ids = shared(a_ids, b_ids)
    same = min(ids * BLOCK, a, b)
    assert one[:same] == two[:same]
    known = min(len(a_ids), len(b_ids)) * BLOCK
    if ids * BLOCK < min(a, b) and ids * BLOCK < known:
        assert one[: BLOCK * (ids + 1)] != two[: BLOCK * (ids + 1)]


@given(st.integers(2, 5000), st.integers(1, 200))
def test_ids_are_in_the_vocabulary(vocabulary: int, tokens: int) -> None:
    ids = orjson.loads(TokenPrompts(vocabulary, BLOCK, 1).render(due(0, tokens, [])))
    assert 0 <= min(ids) <= max(ids) < vocabulary


def test_beyond_its_ids_a_prompt_is_its_own() -> None:
    prompts = TokenPrompts(1000, BLOCK, 1)
    one, two = (orjson.loads(prompts.render(due(index, 20, [5]))) for index in (0, 1))
    assert shared(one, two) == BLOCK


def test_seeds_differ_and_repeat() -> None:
    one = due(0, 30, [1, 2])
    assert TokenPrompts(1000, BLOCK, 1).render(one) == TokenPrompts(1000, BLOCK, 1).render(one)
    assert TokenPrompts(1000, BLOCK, 1).render(one) != TokenPrompts(1000, BLOCK, 2).render(one)


def test_words_follow_the_servers_count() -> None:
    scale = WordScale.through((64, 138), (192, 394))
    assert (scale.fixed, scale.per_word) == (10, 2)
    prompts = WordPrompts(scale, BLOCK, 1)
    one, two = (orjson.loads(prompts.render(due(index, 110, [1, 2]))).split() for index in (0, 1))
    assert len(one) == len(two) == 50
    assert one[:8] == two[:8] and one != two


def test_a_body_fixes_the_lengths() -> None:
    bodies = Bodies("completions", "m", TokenPrompts(1000, BLOCK, 1), Extras(cache_salt="s", timeline=True))
    body = orjson.loads(bodies.render(due(0, 30, [])))
    assert len(body["prompt"]) == 30
    assert (body["max_tokens"], body["ignore_eos"], body["stream"], body["model"]) == (7, True, True, "m")
    assert body["stream_options"] == {"include_usage": True}
    assert (body["cache_salt"], body["include_metrics"]) == ("s", True)
    assert "return_token_ids" not in body


def test_a_prepared_body_is_the_same_and_kept_once() -> None:
    bodies = Bodies("chat", "m", WordPrompts(WordScale(), BLOCK, 1), Extras())
    request = due(0, 30, [])
    bodies.prepare(request)
    assert bodies.take(request) == bodies.take(request) == bodies.render(request)
    (message,) = orjson.loads(bodies.render(request))["messages"]
    assert message["role"] == "user" and len(message["content"].split()) == 30
