"""A workload as native JSON lines.

Knows: the native form, see `diptych.workload.readers.mooncake`. Does not know: files.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from diptych.workload.record import DEFAULT_BLOCK_TOKENS, Arrival, Workload

MS_DIGITS = 6
"""Digits after the point of a millisecond: instants are written to a nanosecond (1e-9 s)."""


def lines(workload: Workload) -> Iterator[str]:
    """One line a request, without line ends. A comment comes first if blocks are not of 512 tokens."""
    if workload.block_tokens != DEFAULT_BLOCK_TOKENS:
        yield f"# block_tokens: {workload.block_tokens}"
    encode = msgspec.json.Encoder().encode
    for arrival in workload:
        yield encode(_row(arrival)).decode()


def _row(arrival: Arrival) -> dict[str, object]:
    row: dict[str, object] = {
        "timestamp": milliseconds(arrival.t_s),
        "input_length": arrival.input_tokens,
        "output_length": arrival.output_tokens,
        "hash_ids": arrival.hash_ids,
    }
    if arrival.session_id is not None:
        row["session_id"] = arrival.session_id
    if arrival.delay_s is not None:
        row["delay"] = milliseconds(arrival.delay_s)
    if arrival.priority:
        row["priority"] = arrival.priority
    if arrival.max_tokens is not None:
        row["max_tokens"] = arrival.max_tokens
    return row


def milliseconds(seconds: float) -> int | float:
    """Milliseconds, whole ones as integers."""
    value = round(seconds * 1000, MS_DIGITS)
    return int(value) if value == int(value) else value
