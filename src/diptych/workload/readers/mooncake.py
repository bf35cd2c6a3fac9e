"""The native form: Mooncake's JSON lines, with the session, delay and priority that aiperf adds.

Knows: its fields and units. Does not know: files, other formats.
Source of the form: kvcache-ai/Mooncake, FAST'25 release (timestamp in ms, one hash id a 512-token block);
`session_id` and `delay` (ms) as in ai-dynamo/aiperf's trace replay.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from diptych.workload.lines import Lines
from diptych.workload.nearest import did_you_mean
from diptych.workload.readers.mooncake_row import Row
from diptych.workload.record import DEFAULT_BLOCK_TOKENS, Arrival

HEADER = re.compile(r"^#\s*block_tokens\s*[:=]\s*(\d+)\s*$")
"""A comment line that says how many tokens one hash id stands for, where it is not 512."""
KEPT = (
    "timestamp",
    "input_length",
    "output_length",
    "hash_ids",
    "session_id",
    "delay",
    "priority",
    "max_tokens",
)
"""Fields that reading keeps."""
REQUIRED = ("input_length", "output_length")


def read(
    lines: Iterable[str],
    source: str = "trace",
    *,
    block_tokens: int = DEFAULT_BLOCK_TOKENS,
    ordered: bool = True,
) -> Iterator[Arrival]:
    """Arrivals line by line. Raises `SpecError` naming line, field and reason at the first wrong line."""
    decode = msgspec.json.Decoder(Row).decode
    cursor = Lines(lines, source, ordered=ordered)
    began_s: dict[str, float] = {}
    for text in cursor:
        try:
            row = decode(text)
        except (msgspec.DecodeError, UnicodeEncodeError) as error:
            raise _explained(cursor, text, error) from None
        session = None if row.session_id is None else str(row.session_id)
        t_s = _instant_s(cursor, row, session, began_s)
        if not ordered and session is not None:
            began_s.setdefault(session, t_s)
        yield Arrival(
            t_s=t_s,
            input_tokens=cursor.tokens("input_length", row.input_length),
            output_tokens=cursor.tokens("output_length", row.output_length),
            hash_ids=cursor.blocks(row.hash_ids, row.input_length, block_tokens),
            session_id=session,
            delay_s=None if row.delay is None else cursor.seconds("delay", row.delay / 1000),
            priority=row.priority,
            max_tokens=None if row.max_tokens is None else cursor.tokens("max_tokens", row.max_tokens),
        )


def header_block_tokens(head: Iterable[str]) -> int | None:
    """What the trace itself says of its blocks, if it says so before its first row."""
    for line in head:
        text = line.strip().removeprefix("\ufeff")
        if match := HEADER.match(text):
            return int(match[1])
        if text and not text.startswith("#"):
            return None
    return None


def unknown_fields(head: Iterable[str]) -> tuple[str, ...]:
    """Fields in these lines that reading drops, in alphabetical order."""
    found: dict[str, None] = {}
    for line in head:
        text = line.strip()
        if not text.startswith("{"):
            continue
        try:
            row = msgspec.json.decode(text)
        except msgspec.DecodeError:
            continue
        found.update(dict.fromkeys(row))
    return tuple(sorted(name for name in found if name not in KEPT))


def _instant_s(cursor: Lines, row: Row, session: str | None, began_s: dict[str, float]) -> float:
    """When it arrives. A later turn may give only its delay: then not before what its session began with."""
    if row.timestamp is not None:
        return cursor.instant_s("timestamp", row.timestamp / 1000)
    if row.delay is None:
        raise cursor.refuse("timestamp", "missing; milliseconds from the start (or `delay`, in a session)")
    if session is None:
        raise cursor.refuse("delay", "needs a `session_id`: it counts from the end of the session's request")
    return began_s.get(session, cursor.latest_s)


def _explained(cursor: Lines, text: str, error: Exception) -> Exception:
    """What is wrong with a row that does not decode, with the nearest name for a misspelt field."""
    try:
        row = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError) as syntax:
        return cursor.not_json(text, syntax)
    if not isinstance(row, dict):
        return cursor.refuse("row", "is not an object with `timestamp`, `input_length` and `output_length`")
    for name in REQUIRED:
        if name not in row:
            others = [key for key in row if key not in KEPT]
            near = did_you_mean(name, others) if others else ""
            hint = f"; found '{', '.join(others)}'" if others and "choose" not in near else ""
            return cursor.refuse(name, f"missing{hint}")
    field = next((key for key in KEPT if f"$.{key}" in str(error)), "row")
    return cursor.refuse(field, f"{str(error).split(' - at')[0]}")
