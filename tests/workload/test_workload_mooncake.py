"""The native form: what is written is read again, and a wrong line says where it is wrong and why."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.domain.errors import SpecError
from diptych.workload import writer
from diptych.workload.readers import mooncake
from diptych.workload.record import Arrival, Workload

GOOD = '{"timestamp": 0, "input_length": 1000, "output_length": 5, "hash_ids": [1, 2]}'


def as_workload(arrivals: list[Arrival], block_tokens: int = 512) -> Workload:
    return Workload("test", lambda: iter(arrivals), block_tokens)


@st.composite
def traces(draw: st.DrawFn) -> tuple[list[Arrival], int]:
    block_tokens = draw(st.sampled_from([1, 16, 512, 700]))
    t_ms, arrivals = 0, list[Arrival]()
    for _ in range(draw(st.integers(0, 8))):
        t_ms += draw(st.integers(0, 10**7))
        tokens = draw(st.integers(1, 20 * block_tokens))
        blocks = draw(st.integers(0, -(-tokens // block_tokens)))
        session = draw(st.none() | st.text(min_size=1, max_size=5))
        arrivals.append(
            Arrival(
                t_s=t_ms / 1000,
                input_tokens=tokens,
                output_tokens=draw(st.integers(1, 10**6)),
                hash_ids=tuple(draw(st.lists(st.integers(0, 2**63 - 1), min_size=blocks, max_size=blocks))),
                session_id=session,
                delay_s=None
                if session is None
                else draw(st.none() | st.integers(0, 10**9).map(lambda n: n / 1000)),
                priority=draw(st.integers(-3, 3)),
                max_tokens=draw(st.none() | st.integers(1, 10**6)),
            )
        )
    return arrivals, block_tokens


@given(traces())
def test_what_is_written_is_read_again(trace: tuple[list[Arrival], int]) -> None:
    arrivals, block_tokens = trace
    written = list(writer.lines(as_workload(arrivals, block_tokens)))
    known = mooncake.header_block_tokens(written) or 512
    assert known == block_tokens or not arrivals
    assert list(mooncake.read(written, block_tokens=block_tokens)) == arrivals


@given(st.lists(st.tuples(st.floats(0, 1e9), st.integers(1, 10**6)), max_size=10).map(sorted))
def test_a_native_file_survives_line_for_line(rows: list[tuple[float, int]]) -> None:
    """Milliseconds with up to six digits after the point come out as they went in."""
    lines = [
        json.dumps({"timestamp": round(t_ms, 6), "input_length": n, "output_length": 1, "hash_ids": []})
        for t_ms, n in rows
    ]
    first = list(writer.lines(as_workload(list(mooncake.read(lines)))))
    assert [json.loads(line) for line in first] == [json.loads(line) for line in lines]


def test_comments_empty_lines_and_a_byte_order_mark_are_passed_over() -> None:
    assert len(list(mooncake.read(["\ufeff# block_tokens: 512", "", GOOD, "  \r\n", GOOD]))) == 2


def test_the_header_says_the_block_size() -> None:
    assert mooncake.header_block_tokens(["# by hand", "# block_tokens: 16", GOOD]) == 16
    assert mooncake.header_block_tokens([GOOD, "# block_tokens: 16"]) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input_length": 0}, ("input_length", "at least 1")),
        ({"input_length": -5}, ("input_length", "-5")),
        ({"output_length": 10**12}, ("output_length", "at most 100,000,000")),
        ({"output_length": "7"}, ("output_length", "Expected `int`")),
        ({"output_length": 1.5}, ("output_length", "Expected `int`")),
        ({"timestamp": -1}, ("timestamp", "negative")),
        ({"timestamp": "soon"}, ("timestamp",)),
        ({"hash_ids": list(range(40))}, ("hash_ids", "40 blocks", "--block-tokens")),
        ({"hash_ids": ["a"]}, ("hash_ids",)),
        ({"delay": 5, "session_id": None, "timestamp": None}, ("delay", "session_id")),
        ({"timestamp": None}, ("timestamp", "missing")),
        ({"delay": -5}, ("delay", "negative")),
        ({"max_tokens": 0}, ("max_tokens",)),
    ],
)
def test_wrong_values_name_line_field_and_reason(change: dict[str, object], words: tuple[str, ...]) -> None:
    row = {"timestamp": 0, "input_length": 640, "output_length": 5, "hash_ids": [1], **change}
    with pytest.raises(SpecError) as raised:
        list(mooncake.read([GOOD, json.dumps(row)], "t.jsonl"))
    assert str(raised.value).startswith("t.jsonl, line 2: ")
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", ("row", "not JSON")),
        ("[1, 2]", ("row", "not an object")),
        ('{"timestamp": 0, "input_len": 5, "output_length": 1}', ("input_length", "missing", "input_len")),
        (
            '{"timestamp": 1e999, "input_length": 5, "output_length": 1}',
            ("timestamp: Infinity is not a finite number",),
        ),
        ('{"timestamp": 0, "input_length": 99999999999999999999, "output_length": 1}', ("input_length",)),
        ('{"timestamp": 0, "input_length": 5, "output_length": 1, "session_id": "\\ud800"}', ("row",)),
    ],
)
def test_wrong_lines(line: str, words: tuple[str, ...]) -> None:
    with pytest.raises(SpecError) as raised:
        list(mooncake.read([line], "t.jsonl"))
    assert "t.jsonl, line 1" in str(raised.value)
    for word in words:
        assert word in str(raised.value)


def test_the_block_size_that_would_fit_is_named() -> None:
    row = json.dumps({"timestamp": 0, "input_length": 640, "output_length": 5, "hash_ids": list(range(40))})
    with pytest.raises(SpecError, match=r"convert --block-tokens 16 IN OUT`$"):
        list(mooncake.read([row]))


def test_out_of_order_names_the_line_and_the_remedy() -> None:
    late = GOOD.replace('"timestamp": 0', '"timestamp": 5000')
    with pytest.raises(SpecError, match=r"line 3: timestamp: 0 s .* \(5 s\); .*convert --sort"):
        list(mooncake.read([GOOD, late, GOOD], "t.jsonl"))
    assert len(list(mooncake.read([GOOD, late, GOOD], ordered=False))) == 3


def test_a_wall_clock_starts_at_zero() -> None:
    lines = [GOOD.replace('"timestamp": 0', f'"timestamp": {1.7e12 + ms}') for ms in (0, 250)]
    assert [arrival.t_s for arrival in mooncake.read(lines)] == [0.0, 0.25]


def test_instants_beyond_belief_are_refused() -> None:
    far = GOOD.replace('"timestamp": 0', '"timestamp": 2e12')
    with pytest.raises(SpecError, match="check its unit"):
        list(mooncake.read([GOOD, far]))


def test_a_later_turn_may_give_only_its_delay() -> None:
    lines = [
        '{"timestamp": 100, "input_length": 5, "output_length": 1, "session_id": "a"}',
        '{"delay": 2500, "input_length": 9, "output_length": 1, "session_id": "a"}',
    ]
    first, second = mooncake.read(lines)
    assert (first.delay_s, second.delay_s) == (None, 2.5)
    assert second.t_s == 0.1


def test_unordered_turns_begin_with_their_session() -> None:
    rows = [
        '{"timestamp": 100, "input_length": 5, "output_length": 1, "session_id": "a"}',
        '{"timestamp": 9000, "input_length": 5, "output_length": 1, "session_id": "b"}',
        '{"delay": 2500, "input_length": 9, "output_length": 1, "session_id": "a"}',
    ]
    assert [arrival.t_s for arrival in mooncake.read(rows, ordered=False)] == [0.1, 9.0, 0.1]


def test_reading_takes_a_line_at_a_time() -> None:
    taken: list[int] = []

    def lines() -> Iterator[str]:
        for number in range(1000):
            taken.append(number)
            yield GOOD

    reader = mooncake.read(lines())
    next(reader)
    assert len(taken) == 1


def test_dropped_fields_are_named() -> None:
    assert mooncake.unknown_fields(['{"timestamp": 0, "tools": [], "extra": {}}', "{"]) == ("extra", "tools")
