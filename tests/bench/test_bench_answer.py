"""Which chunks bear tokens, how many, and what is no answer."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from diptych.bench.answer import BrokenAnswer, StreamedAnswer
from diptych.bench.sample import Outcome, Sample

Choice = dict[str, Any]


def sample_of(*events: tuple[float, Any]) -> Sample:
    """A sample after these events and the end."""
    sample = Sample(index=0, input_tokens=3, output_tokens=4, due_s=0.0)
    answer = StreamedAnswer(sample)
    for at_s, data in events:
        answer.take(data if isinstance(data, bytes) else orjson.dumps(data), at_s)
    answer.finish()
    return sample


def text(said: str, finish: str | None = None, ids: list[int] | None = None, **fields: Any) -> Choice:
    choice: Choice = {"text": said, "finish_reason": finish}
    if ids is not None:
        choice["token_ids"] = ids
    return {"choices": [choice], **fields}


def delta(finish: str | None = None, **said: Any) -> Choice:
    return {"choices": [{"delta": said, "finish_reason": finish}]}


def counts(output: int) -> Choice:
    details = {"cached_tokens": 2}
    return {
        "choices": [],
        "usage": {"prompt_tokens": 3, "completion_tokens": output, "prompt_tokens_details": details},
    }


DONE = b"[DONE]"


def test_one_token_a_chunk() -> None:
    sample = sample_of((1, text("a")), (2, text("b")), (3, text("c", "length")), (4, counts(3)), (4, DONE))
    assert sample.outcome is Outcome.COMPLETED
    assert (sample.chunk_s, sample.chunk_tokens) == ([1, 2, 3], [1, 1, 1])
    assert (sample.usage_prompt_tokens, sample.usage_output_tokens, sample.cached_tokens) == (3, 3, 2)
    assert sample.finish_reason == "length"


def test_a_piece_without_text_stands_for_its_token() -> None:
    """Half a character is held back; the end, whose text came before, is no token."""
    sample = sample_of((1, text("")), (2, text("é")), (3, text("", "length")), (4, counts(2)), (4, DONE))
    assert (sample.chunk_s, sample.chunk_tokens) == ([1, 2], [1, 1])


def test_a_silent_end_is_the_last_token_if_one_is_missing() -> None:
    sample = sample_of((1, text("a")), (2, text("b")), (3, text("", "length")), (4, counts(3)), (4, DONE))
    assert (sample.chunk_s, sample.chunk_tokens) == ([1, 2, 3], [1, 1, 1])


def test_several_tokens_a_chunk_by_their_ids() -> None:
    events = [(1, text("ab", ids=[5, 6])), (2, text("c", ids=[7])), (3, text("def", "length", ids=[8, 9, 1]))]
    sample = sample_of(*events, (4, counts(6)), (4, DONE))
    assert sample.chunk_tokens == [2, 1, 3]
    assert not sample.gaps_estimated


def test_ids_that_lag_behind_their_tokens() -> None:
    """Ids come with their text: the first chunk's token is told in the second."""
    events = [(1, text("", ids=[])), (2, text("é", ids=[7, 8])), (3, text("", "length"))]
    assert sample_of(*events, (4, counts(2)), (4, DONE)).chunk_tokens == [1, 1]


def test_several_tokens_a_chunk_by_a_running_usage() -> None:
    events = [
        (1, text("ab", usage={"completion_tokens": 2})),
        (2, text("c", "length", usage={"completion_tokens": 3})),
    ]
    sample = sample_of(*events, (4, counts(3)), (4, DONE))
    assert sample.chunk_tokens == [2, 1]


def test_several_tokens_a_chunk_that_nobody_counts() -> None:
    sample = sample_of((1, text("ab")), (3, text("cd")), (4, text("e", "length")), (5, counts(5)), (5, DONE))
    assert sample.chunk_tokens is None
    assert sample.gaps_estimated
    assert sum(sample.gaps_s) * 4 / 2 == pytest.approx(3)  # each gap stands for (5 - 1) / (3 - 1) tokens


def test_chat_begins_with_a_role_that_is_no_token() -> None:
    events = [
        (1, delta(role="assistant", content="")),
        (2, delta(content="a")),
        (3, delta("stop", content="b")),
    ]
    assert sample_of(*events, (4, counts(2)), (4, DONE)).chunk_s == [2, 3]


def test_a_role_with_text_is_one() -> None:
    events = [(1, delta(role="assistant", content="a")), (2, delta("stop", reasoning="b"))]
    assert sample_of(*events, (4, counts(2)), (4, DONE)).chunk_s == [1, 2]


def test_no_usage() -> None:
    sample = sample_of((1, text("a")), (2, text("b", "length")), (3, DONE))
    assert sample.outcome is Outcome.COMPLETED
    assert (sample.usage_output_tokens, sample.tpot_s) == (None, None)


def test_no_usage_but_ids() -> None:
    sample = sample_of((1, text("a", ids=[1])), (2, text("b", "length", ids=[2])), (3, DONE))
    assert (sample.usage_output_tokens, sample.tpot_s) == (2, 1)


def test_the_servers_timeline_is_kept() -> None:
    tail = {**counts(1), "metrics": {"choices": [{"index": 0, "ttft_s": 0.5}]}}
    assert sample_of((1, text("a", "length")), (2, tail), (2, DONE)).server == {"index": 0, "ttft_s": 0.5}


@pytest.mark.parametrize(
    ("events", "code"),
    [
        ([text("a")], "truncated_stream"),
        ([text("a", "length"), counts(1)], "truncated_stream"),
        ([text("a"), DONE], "no_finish_reason"),
        ([text("", "length"), DONE], "empty_stream"),
        ([DONE], "no_finish_reason"),
        ([b"{nonsense"], "invalid_chunk"),
        ([b"[1]"], "invalid_chunk"),
        (
            [text("a"), {"error": {"message": "gone", "type": "api_error", "code": "worker_lost"}}],
            "worker_lost",
        ),
        ([{"error": {"message": "gone", "type": "api_error", "code": 500}}], "500"),
        ([{"error": "gone"}], "stream_error"),
    ],
)
def test_what_is_no_answer(events: list[Any], code: str) -> None:
    with pytest.raises(BrokenAnswer) as caught:
        sample_of(*((float(at_s), data) for at_s, data in enumerate(events)))
    assert caught.value.code == code
