"""The toy engine: its tokens follow from the KV memory alone, and memory that is wrong is noticed."""

from __future__ import annotations

import pytest

from diptych.adapters.toy import ToyAdapter, ToyEngine, toy_layout, toy_next_token
from diptych.domain.errors import Bug, SpecError
from diptych.domain.ids import BlockId, RequestId, TokenId
from diptych.domain.request import SamplingParams
from diptych.domain.step import NewSequence, Slice, StepPlan, StepResult

LAYOUT = toy_layout(4)
BLOCKS = 8
RID = RequestId("r")
PROMPT = (11, 12, 13, 14, 15, 16)
GREEDY = SamplingParams(max_tokens=9, seed=3, temperature=0.0)


def _toy(engine: ToyEngine | None = None) -> ToyAdapter:
    buffer = memoryview(bytearray(LAYOUT.segment_bytes(BLOCKS)))
    return ToyAdapter(engine or ToyEngine(), LAYOUT, buffer, BLOCKS)


def _new(sampling: SamplingParams = GREEDY) -> tuple[NewSequence, ...]:
    return (NewSequence(request_id=RID, token_ids=PROMPT, prompt_tokens=len(PROMPT), sampling=sampling),)


def _slice(token_ids: tuple[TokenId, ...], start: int, table: tuple[BlockId, ...]) -> tuple[Slice, ...]:
    return (Slice(request_id=RID, token_ids=token_ids, start=start, block_table=table, sample=True),)


def _prefill(toy: ToyAdapter, sampling: SamplingParams = GREEDY) -> StepResult:
    return toy.execute(StepPlan(step=0, slices=_slice(PROMPT, 0, (3, 5)), new=_new(sampling)))


@pytest.mark.parametrize(
    "sampling", [GREEDY, SamplingParams(max_tokens=9, seed=3), SamplingParams(max_tokens=9, seed=-1)]
)
def test_its_tokens_are_those_of_the_reference(sampling: SamplingParams) -> None:
    toy = _toy()
    first = _prefill(toy, sampling).sampled[RID].token_id
    assert first == toy_next_token(PROMPT, sampling, len(PROMPT), 256)
    second = toy.execute(StepPlan(step=1, slices=_slice((first,), 6, (3, 5)))).sampled[RID].token_id
    assert second == toy_next_token((*PROMPT, first), sampling, len(PROMPT), 256)


def test_a_copied_block_is_as_good_as_the_first() -> None:
    toy = _toy()
    _prefill(toy)
    result = toy.execute(StepPlan(step=1, slices=_slice((9,), 6, (3, 6)), copies=((5, 6),)))
    assert result.copied_bytes == LAYOUT.block_bytes
    assert result.sampled[RID].token_id == toy_next_token((*PROMPT, 9), GREEDY, len(PROMPT), 256)


@pytest.mark.parametrize(("table", "wrong"), [((4, 5), 0), ((5, 3), 0), ((3, 7), 4), ((3, 3), 2)])
def test_a_wrong_block_is_noticed(table: tuple[BlockId, ...], wrong: int) -> None:
    toy = _toy()
    _prefill(toy)
    with pytest.raises(Bug, match=f"first wrong: {wrong}"):
        toy.execute(StepPlan(step=1, slices=_slice((9,), 6, table)))


def test_a_seed_matters_only_when_sampling() -> None:
    def token(temperature: float, seed: int) -> TokenId:
        sampling = SamplingParams(max_tokens=1, seed=seed, temperature=temperature)
        return toy_next_token(PROMPT, sampling, len(PROMPT), 1 << 30)

    assert token(0.0, 1) == token(0.0, 2)
    assert token(1.0, 1) != token(1.0, 2)


def test_stop_tokens_wait_for_the_least_length() -> None:
    plain = SamplingParams(max_tokens=9, seed=3, temperature=0.0)
    stop = toy_next_token(PROMPT, plain, len(PROMPT), 256)
    eager = SamplingParams(max_tokens=9, seed=3, temperature=0.0, stop_token_ids=(stop,), min_tokens=1)
    assert toy_next_token(PROMPT, eager, len(PROMPT), 256) == (stop + 1) % 256


def test_prompt_logprobs_cover_every_position_but_the_first() -> None:
    wanting = SamplingParams(max_tokens=9, seed=3, temperature=0.0, prompt_logprobs=2, logprobs=1)
    result = _prefill(_toy(), wanting)
    assert [entry.token_id for entry in result.prompt_logprobs[RID]] == list(PROMPT[1:])
    assert {len(entry.top) for entry in result.prompt_logprobs[RID]} == {2}
    logprob = result.sampled[RID].logprob
    assert logprob is not None and len(logprob.top) == 1


def test_poison_and_a_refused_start_fail_as_asked() -> None:
    with pytest.raises(Bug, match="poison"):
        _prefill(_toy(ToyEngine(poison_token_id=PROMPT[0])))
    with pytest.raises(SpecError, match="no weights"):
        _toy(ToyEngine(startup_error="no weights"))
