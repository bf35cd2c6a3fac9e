"""The sampler against a straightforward reference for one row at a time, and its promises."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diptych.domain.ids import RequestId
from diptych.domain.request import SamplingParams
from diptych.domain.step import NewSequence
from diptych.engine.inputs import SampleRow
from diptych.engine.logprobs import logprobs
from diptych.engine.rng import uniform
from diptych.engine.sampler import Draw, sample
from diptych.engine.sequences import SequenceState
from diptych.kernels import drawing
from diptych.kernels.seam import DrawRule
from support.native_library import native_kernels

VOCAB = 40


@pytest.fixture(params=["torch", "native"], scope="module")
def draw(request: pytest.FixtureRequest) -> Draw:
    """Both implementations."""
    return drawing.draw if request.param == "torch" else native_kernels().draw


def row(
    sampling: SamplingParams, prompt: tuple[int, ...] = (1, 2), output: tuple[int, ...] = ()
) -> SampleRow:
    new = NewSequence(
        request_id=RequestId("r"), token_ids=prompt + output, prompt_tokens=len(prompt), sampling=sampling
    )
    return SampleRow(SequenceState(new), 0, len(output))


def params(**fields: Any) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 100, "seed": 1, **fields})


def reference(logits: list[float], choice: SampleRow) -> int:
    """The definition, with Python floats and one token at a time."""
    state, sampling = choice.state, choice.state.sampling
    prompt, output = state.token_ids[: state.prompt_tokens], state.token_ids[state.prompt_tokens :]
    scores = list(logits)
    for token_id, bias in sampling.logit_bias:
        scores[token_id] += bias
    if len(output) < sampling.min_tokens:
        for token_id in sampling.stop_token_ids:
            scores[token_id] = -math.inf
    for token_id in set(prompt + output):
        factor = sampling.repetition_penalty
        scores[token_id] = scores[token_id] / factor if scores[token_id] > 0 else scores[token_id] * factor
    for token_id in set(output):
        count = output.count(token_id)
        scores[token_id] -= sampling.presence_penalty + sampling.frequency_penalty * count
    if sampling.temperature == 0:
        return scores.index(max(scores))
    weights = [math.exp((score - max(scores)) / sampling.temperature) for score in scores]
    weights = [weight if weight >= sampling.min_p else 0.0 for weight in weights]
    if sampling.top_k:
        floor = sorted(weights, reverse=True)[min(sampling.top_k, VOCAB) - 1]
        weights = [weight if weight >= floor else 0.0 for weight in weights]
    floor, running = 0.0, 0.0
    for weight in sorted(weights, reverse=True):
        running, floor = running + weight, weight
        if running >= sampling.top_p * math.fsum(weights):
            break
    weights = [weight if weight >= floor else 0.0 for weight in weights]
    target = uniform(sampling.seed, len(output)) * math.fsum(weights)
    running = 0.0
    for token_id, weight in enumerate(weights):
        running += weight
        if running > target:
            return token_id
    raise AssertionError("u < 1")


SAMPLING = st.builds(
    params,
    seed=st.integers(0, 2**63),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_k=st.sampled_from([0, 0, 1, 5, 39, 100]),
    top_p=st.sampled_from([1.0, 0.9, 0.5, 0.05]),
    min_p=st.sampled_from([0.0, 0.0, 0.1, 0.5]),
    presence_penalty=st.sampled_from([0.0, 0.7, -1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.4]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    logit_bias=st.sampled_from([(), ((3, 5.0), (7, -100.0))]),
    min_tokens=st.sampled_from([0, 2]),
    stop_token_ids=st.sampled_from([(), (0, 9)]),
)
ROWS = st.builds(
    row,
    SAMPLING,
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=6).map(tuple),
    st.lists(st.integers(0, VOCAB - 1), max_size=5).map(tuple),
)


def random_logits(rows: int, seed: int, vocab: int = VOCAB) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, vocab, generator=generator) * 3


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(ROWS, min_size=1, max_size=6), st.integers(0, 10_000))
def test_a_batch_of_any_rows_agrees_with_the_definition(draw: Draw, rows: list[SampleRow], seed: int) -> None:
    logits_RV = random_logits(len(rows), seed)
    before_RV = logits_RV.clone()
    got = sample(logits_RV, rows, draw)
    assert torch.equal(logits_RV, before_RV)
    assert got == [reference(logits_RV[i].tolist(), choice) for i, choice in enumerate(rows)]


def test_ids_beyond_the_vocabulary_change_nothing(draw: Draw) -> None:
    odd = row(params(logit_bias=((VOCAB, 9.0),), stop_token_ids=(VOCAB + 5,), min_tokens=3))
    logits_RV = random_logits(1, 3)
    assert sample(logits_RV, [odd], draw) == sample(logits_RV, [row(params())], draw)


@pytest.mark.parametrize("vocab", [40, 3001])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_draws_the_same_in_any_company(draw: Draw, vocab: int, threads: int) -> None:
    rng, before = random.Random(vocab), torch.get_num_threads()
    rows = [
        row(params(seed=i, top_p=rng.choice([1.0, 0.99, 0.7]), top_k=rng.choice([0, 9]))) for i in range(24)
    ]
    logits_RV = random_logits(24, 5, vocab) / 10  # flat: top-p needs more than its first candidates
    torch.set_num_threads(threads)
    together = sample(logits_RV, rows, draw)
    alone = [sample(logits_RV[i : i + 1], rows[i : i + 1], draw)[0] for i in range(24)]
    torch.set_num_threads(before)
    assert together == alone
    assert len(set(together)) > 10


def test_frequencies_follow_the_probabilities(draw: Draw) -> None:
    """A chi-square test over 4,000 draws; the bound is the 99.99 % point for 9 degrees of freedom."""
    logits_RV = torch.arange(10.0).div(4).repeat(4000, 1)
    state = row(params(seed=7)).state
    choices = [SampleRow(state, 0, index) for index in range(4000)]
    counts = torch.bincount(torch.tensor(sample(logits_RV, choices, draw)), minlength=10)
    expected = logits_RV[0].softmax(-1) * 4000
    assert float(((counts - expected) ** 2 / expected).sum()) < 33.7


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(1, 700),
    st.sampled_from([0, 1, 3, 600]),
    st.sampled_from([1.0, 0.95, 0.3]),
    st.sampled_from([0.0, 0.2]),
    st.integers(0, 10_000),
)
def test_native_and_torch_keep_the_same_tokens_of_bfloat16_scores_with_ties(
    vocab: int, top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    """What the least and the greatest u draw are the first and the last token that is kept."""
    logits_RV = random_logits(4, seed, vocab).bfloat16()
    ends = [0.0, 1.0 - 2**-53, 0.0, 1.0 - 2**-53]
    rules = [DrawRule(0.7, min_p, top_k, top_p, u) for u in ends]
    assert native_kernels().draw(logits_RV, rules) == drawing.draw(logits_RV, rules)


def test_uniform_is_a_function_of_seed_and_index_in_the_half_open_interval() -> None:
    values = [uniform(seed, index) for seed in (0, 1, 2**64 - 1) for index in range(3000)]
    assert len(set(values)) == len(values)
    assert 0.0 <= min(values) < 0.002 and 0.998 < max(values) < 1.0
    assert abs(sum(values) / len(values) - 0.5) < 0.02
    assert uniform(42, 7) == uniform(42, 7)


def test_uniform_is_frozen() -> None:
    """A change of these numbers changes every seeded answer of every user."""
    assert [uniform(s, i) for s, i in ((0, 0), (0, 1), (123, 0))] == [
        0.6524484863740322,
        0.7012121095215252,
        0.8762303971575951,
    ]


def test_logprobs_are_those_of_the_raw_logits_with_ties_by_id() -> None:
    logits_RV = torch.tensor([[0.0, 2.0, 2.0, 1.0], [5.0, 0.0, 0.0, 0.0]])
    entries = logprobs(logits_RV, [3, 0], 3)
    expected_RV = logits_RV.double().log_softmax(-1)
    assert [entry.token_id for entry in entries] == [3, 0]
    assert entries[0].logprob == pytest.approx(expected_RV[0, 3].item())
    assert [token_id for token_id, _ in entries[0].top] == [1, 2, 3]
    assert entries[1].top[0] == (0, entries[1].logprob)
    assert logprobs(logits_RV, [0, 0], 0)[0].top == ()


def test_logprobs_ignore_sampling_parameters_and_company() -> None:
    logits_RV = random_logits(9, 1, 3001)
    together = logprobs(logits_RV, list(range(9)), 5)
    assert together == tuple(logprobs(logits_RV[i : i + 1], [i], 5)[0] for i in range(9))
