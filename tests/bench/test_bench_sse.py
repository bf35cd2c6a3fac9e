"""Server-sent events, however the bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.bench.sse import EventParser

STREAM = (
    b'\xef\xbb\xbf: keep-alive\n\ndata: {"a": 1}\n\nevent: x\ndata:two\rdata: lines\r\n\r\ndata: [DONE]\n\n'
)
EVENTS = [b'{"a": 1}', b"two\nlines", b"[DONE]"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_cuts_do_not_matter(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    parser = EventParser()
    found = [data for a, b in pairwise(places) for data in parser.feed(STREAM[a:b])]
    assert found == EVENTS
    assert not parser.unfinished


def test_byte_by_byte() -> None:
    parser = EventParser()
    assert [data for i in range(len(STREAM)) for data in parser.feed(STREAM[i : i + 1])] == EVENTS


@pytest.mark.parametrize("end", [b"data: x", b"data: x\n"])
def test_an_event_without_an_empty_line_does_not_count(end: bytes) -> None:
    parser = EventParser()
    assert parser.feed(end) == []
    assert parser.unfinished
