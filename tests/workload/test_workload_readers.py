"""Formats other than the native one: each reads its own, and refuses what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.domain.errors import SpecError
from diptych.workload.formats import Reading, opened
from diptych.workload.lines import Lines
from diptych.workload.readers import agents, azure, bailian, burstgpt, lengths_csv, servegen, sharegpt
from diptych.workload.record import Arrival

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens"
BURST = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type"
Read = Callable[[list[str]], Iterator[Arrival]]


def in_brief(arrivals: Iterator[Arrival]) -> list[tuple[float, int, int]]:
    return [(a.t_s, a.input_tokens, a.output_tokens) for a in arrivals]


def test_azure_keeps_seven_decimals() -> None:
    lines = [AZURE, "2023-11-16 18:17:03.9799600,4808,10", "2023-11-16 18:17:04.0319601,3180,8\r\n"]
    assert in_brief(azure.read(lines)) == [(0.0, 4808, 10), (0.0520001, 3180, 8)]


def test_azure_of_later_years_has_an_offset_and_images() -> None:
    lines = [
        "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens",
        "2024-05-10 00:00:00.5+00:00,1,7,2",
        "2024-05-10 00:00:01+00:00,0,8,3",
    ]
    assert in_brief(azure.read(lines)) == [(0.0, 7, 2), (0.5, 8, 3)]
    found = opened([line + "\n" for line in lines], "t.csv", Reading())
    assert found.name == "azure"
    assert "NumImages is not kept" in found.notes


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("2023-11-16 18:17:03,0,1", ("ContextTokens", "at least 1")),
        ("2023-11-16 18:17:03,5,x", ("GeneratedTokens", "not a number")),
        ("2023-11-16 18:17:03,5,inf", ("GeneratedTokens", "whole number")),
        ("2023-11-16 18:17:03,5,1.5", ("GeneratedTokens", "whole number")),
        ("2023-13-16 18:17:03,5,5", ("TIMESTAMP",)),
        ("yesterday,5,5", ("TIMESTAMP", "2023-11-16")),
        ("2023-11-16 18:17:03,5", ("GeneratedTokens", "2 columns")),
        ("2023-11-16 18:17:02,5,5", ("TIMESTAMP", "--sort")),
    ],
)
def test_wrong_rows_of_azure(row: str, words: tuple[str, ...]) -> None:
    with pytest.raises(SpecError) as raised:
        list(azure.read([AZURE, "2023-11-16 18:17:02.5,5,5", row], "t.csv"))
    assert "t.csv, line 3: " in str(raised.value)
    for word in words:
        assert word in str(raised.value)


def test_a_missing_column_names_the_nearest() -> None:
    with pytest.raises(SpecError, match="ContextTokens: no such column; did you mean 'ContextToken'"):
        list(azure.read(["TIMESTAMP,ContextToken,GeneratedTokens", "x,1,1"]))


def test_burstgpt_leaves_failures_out() -> None:
    lines = [
        BURST,
        "5,3,1.2,ChatGPT,472,18,490,API log",
        "6,,1,GPT-4,10,0,10,API log",
        "45.5,,2,GPT-4,9,8,17,x",
    ]
    found = list(burstgpt.read(lines))
    assert in_brief(iter(found)) == [(5.0, 472, 18), (45.5, 9, 8)]
    assert [arrival.session_id for arrival in found] == ["3", None]


def test_burstgpt_without_sessions() -> None:
    lines = ["Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type", "5,ChatGPT,472,18,490,x"]
    assert in_brief(burstgpt.read(lines)) == [(5.0, 472, 18)]


def test_lengths_all_come_at_once() -> None:
    lines = [
        "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio",
        "3742,284,4026,0.07",
        "18,243,261,13",
    ]
    assert in_brief(lengths_csv.read(lines)) == [(0.0, 3742, 284), (0.0, 18, 243)]


def test_bailian_chains_chats_and_blocks() -> None:
    rows = [
        {"chat_id": 1, "parent_chat_id": -1, "timestamp": 1.5, "input_length": 40, "output_length": 3,
         "type": "text", "turn": 1, "hash_ids": [7, 8, 9]},
        {"chat_id": 2, "parent_chat_id": 1, "timestamp": 2, "input_length": 33, "output_length": 3,
         "type": "text", "turn": 2, "hash_ids": [7, 8, 5]},
        {"chat_id": 3, "parent_chat_id": -1, "timestamp": 2, "input_length": 33, "output_length": 3,
         "type": "text", "turn": 1, "hash_ids": [6, 8, 9]},
    ]  # fmt: skip
    first, second, other = bailian.read(json.dumps(row) for row in rows)
    assert (first.session_id, second.session_id, other.session_id) == ("1", "1", "3")
    assert first.hash_ids[:2] == second.hash_ids[:2]
    assert not set(other.hash_ids) & set(first.hash_ids), "the same block behind another one is not the same"


def test_calls_of_an_agent_wait_for_its_tools() -> None:
    row = {
        "session_id": "a",
        "arrival_time_ns": 2_000_000_000,
        "sub_requests": [
            {"input_toks": 10, "output_toks": 2, "tool_duration_ns": 1_500_000_000},
            {"input_toks": 20, "output_toks": 3, "tool_duration_ns": 0},
        ],
    }
    single = {"input_toks": 5, "output_toks": 6, "arrival_time_ns": 3_000_000_000}
    found = list(agents.read([json.dumps(row), json.dumps(single)]))
    assert in_brief(iter(found)) == [(2.0, 10, 2), (2.0, 20, 3), (3.0, 5, 6)]
    assert [arrival.delay_s for arrival in found] == [None, 1.5, None]
    assert [arrival.session_id for arrival in found] == ["a", "a", None]


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({"input_toks": 5, "output_toks": 6}, "arrival_time_ns"),
        ({"input_toks": 5, "arrival_time_ns": 1}, "output_toks"),
        ({"sub_requests": [], "arrival_time_ns": 1}, "sub_requests"),
        (
            {"sub_requests": [{"input_toks": 1, "output_toks": 0}], "arrival_time_ns": 1},
            "sub_requests[0].output_toks",
        ),
        ({"input_toks": 5, "output_toks": "x", "arrival_time_ns": 1}, "output_toks"),
    ],
)
def test_wrong_rows_of_agents(row: dict[str, object], word: str) -> None:
    with pytest.raises(SpecError) as raised:
        list(agents.read([json.dumps(row)], "t.jsonl"))
    assert str(raised.value).startswith("t.jsonl, line 1: ")
    assert word in str(raised.value)


CONVERSATIONS = [
    {"id": "a", "conversations": [{"from": "human", "value": "x" * 40}, {"from": "gpt", "value": "y" * 8}]},
    {"id": "b", "conversations": [{"from": "human", "value": "alone"}]},
    {"id": "c", "conversations": [{"from": "human", "value": "}],[{"}, {"from": "gpt", "value": "z"}]},
]


@given(st.integers(1, 300), st.booleans(), st.sampled_from([None, 2]))
def test_sharegpt_is_read_in_pieces_of_any_size(size: int, in_array: bool, indent: int | None) -> None:
    text = (
        json.dumps(CONVERSATIONS, indent=indent)
        if in_array
        else "\n".join(json.dumps(row, indent=indent) for row in CONVERSATIONS)
    )
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    found = in_brief(sharegpt.read(pieces, "t.json", sharegpt.by_characters(4)))
    assert found == [(0.0, 10, 2), (0.0, 1, 1)]


def test_sharegpt_counts_with_what_it_is_given() -> None:
    found = in_brief(sharegpt.read([json.dumps(CONVERSATIONS)], "t.json", len))
    assert found == [(0.0, 40, 8), (0.0, 5, 1)]


@pytest.mark.parametrize("text", ['[{"id": 1}]', '[{"conversations": [1, 2]}]', "[nonsense", '[{"a": '])
def test_wrong_sharegpt(text: str) -> None:
    with pytest.raises(SpecError, match=r"t\.json"):
        list(sharegpt.read([text], "t.json", len))


SLOTS = ["0,2,0.5,Gamma,4,0.125", "600,0,0,,0,0", "1200,1,1.3,Weibull,0.8,1", "1800,0,0,,0,0"]
DATASET = json.dumps(
    {
        "0": {"input_tokens": "{10: 0.5, 20: 0.5}", "output_tokens": "{3: 1.0}"},
        "1000": {"input_tokens": "{}", "output_tokens": "{}"},
    }
)


def test_servegen_follows_its_slots() -> None:
    client = servegen.Client("chunk-0", SLOTS, DATASET)
    found = list(servegen.read([client], "folder", seed=1))
    assert found == list(servegen.read([client], "folder", seed=1))
    assert found != list(servegen.read([client], "folder", seed=2))
    busy = [sum(start <= a.t_s < start + 600 for a in found) for start in (0, 600, 1200, 1800)]
    assert busy[1] == busy[3] == 0
    assert abs(busy[0] - 1200) < 80  # five standard deviations of a gamma renewal with CV 0.5: 87
    assert abs(busy[2] - 600) < 160  # the same of CV 1.3: 159
    assert {a.input_tokens for a in found} == {10, 20}
    assert [a.t_s for a in found] == sorted(a.t_s for a in found)


def test_servegen_counts_images_as_tokens() -> None:
    window = {
        "text_tokens": "{5: 1}",
        "image_tokens": "{100: 1}",
        "image_count": "{2: 1}",
        "output_tokens": "{3: 1}",
    }
    client = servegen.Client("chunk-0", SLOTS, json.dumps({"0": window}))
    assert {a.input_tokens for a in servegen.read([client], "folder", seed=1)} == {205}


@pytest.mark.parametrize(
    ("slots", "dataset", "word"),
    [
        (["0,2,0.5,Gamma"], DATASET, "chunk-0-trace.csv, line 1"),
        (["0,2,0.5,Cauchy,1,1"], DATASET, "Gamma or Weibull"),
        (["0,-2,0.5,Gamma,1,1"], DATASET, "negative"),
        (SLOTS, "[]", "chunk-0-dataset.json"),
        (SLOTS, "{}", "no lengths"),
        (SLOTS, '{"0": {"input_tokens": "{1: 1}"}}', "output_tokens"),
        (SLOTS, '{"0": {"input_tokens": "{1e999: 1}", "output_tokens": "{1: 1}"}}', "inf tokens"),
        (SLOTS, '{"0": {"input_tokens": "{-1: 1}", "output_tokens": "{1: 1}"}}', "-1 tokens"),
        (SLOTS, '{"0": {"input_tokens": "{1e: 1}", "output_tokens": "{1: 1}"}}', "input_tokens: could not"),
        (SLOTS, '{"nan": {"input_tokens": "{1: 1}", "output_tokens": "{1: 1}"}}', "no finite time"),
    ],
)
def test_wrong_servegen(slots: list[str], dataset: str, word: str) -> None:
    with pytest.raises(SpecError) as raised:
        list(servegen.read([servegen.Client("chunk-0", slots, dataset)], "folder", seed=1))
    assert word in str(raised.value)


def test_servegen_with_one_slot() -> None:
    client = servegen.Client("chunk-0", SLOTS[:1], DATASET)
    with pytest.raises(SpecError, match="two slots"):
        list(servegen.read([client], "folder", seed=1))


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ('{"timestamp": 0, "input_length": 1, "output_length": 1}', "mooncake"),
        ('{"delay": 0, "input_length": 1, "session_id": "a"}', "mooncake"),
        ('{"chat_id": 1, "parent_chat_id": -1, "timestamp": 1, "input_length": 4}', "bailian"),
        ('{"input_toks": 1}', "llmservingsim"),
        ('{"session_id": "a", "sub_requests": []}', "llmservingsim"),
        ('[{"id": "a", "conversations": []}]', "sharegpt"),
        ('{"conversations": []}', "sharegpt"),
        (AZURE, "azure"),
        (BURST, "burstgpt"),
        ("num_prefill_tokens,num_decode_tokens", "lengths"),
    ],
)
def test_the_format_is_told_by_the_first_line(line: str, name: str) -> None:
    assert opened(["# a comment\n", line + "\n"], "t", Reading()).name == name


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"input_lenght": 1}', ("did you mean 'input_length'",)),
        ('{"a": 1}', ("native",)),
        ("TIMESTAMPS,x", ("did you mean 'TIMESTAMP'",)),
        ("hello", ("a header with one of",)),
        ("", ("no requests",)),
    ],
)
def test_unknown_formats_name_the_nearest(line: str, words: tuple[str, ...]) -> None:
    with pytest.raises(SpecError) as raised:
        opened([line + "\n"], "t", Reading())
    for word in words:
        assert word in str(raised.value)


ROWS = {
    "mooncake": '{"timestamp": 0, "input_length": 5, "output_length": 1%s}',
    "bailian": '{"chat_id": 1, "timestamp": 0, "input_length": 5, "output_length": 1%s}',
    "llmservingsim": '{"arrival_time_ns": 0, "input_toks": 5, "output_toks": 1%s}',
}


@pytest.mark.parametrize("form", ROWS)
@pytest.mark.parametrize("place", [2, 3])
@pytest.mark.parametrize(
    ("field", "said"),
    [
        ('"delay": NaN', "delay: NaN is not"),
        ('"max_tokens": Infinity', "max_tokens: Infinity is not"),
        ('"sub_requests": [{}, {"tool_duration_ns": -Infinity}]',
         "sub_requests[1].tool_duration_ns: -Infinity is not"),
    ],
    ids=["NaN", "Infinity", "nested"],
)  # fmt: skip
def test_what_is_no_finite_number_is_named_with_line_and_field(
    form: str, place: int, field: str, said: str
) -> None:
    """In the line that tells the format as well as in a later one."""
    lines = ["# a comment", *[ROWS[form] % ""] * (place - 2), ROWS[form] % f", {field}"]
    with pytest.raises(SpecError) as raised:
        list(opened(lines, "t", Reading()).read(lines, "t"))
    assert str(raised.value) == f"t, line {place}: {said} a finite number"


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever stands in a line: arrivals or a `SpecError`, nothing else."""
    for head in (AZURE, "num_prefill_tokens,num_decode_tokens", BURST, "{}"):
        lines = [head + "\n", *(line + "\n" for line in text.split("\n"))]
        try:
            found = opened(lines, "t", Reading())
            list(found.read(lines, "t"))
        except SpecError as error:
            assert str(error).startswith("t")


def test_lines_know_their_number() -> None:
    cursor = Lines(["", "# x", "a", "b"], "t")
    assert [(cursor.number, text) for text in cursor] == [(3, "a"), (4, "b")]
