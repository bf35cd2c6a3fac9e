"""LLMServingSim's JSON lines: single requests, and sessions whose calls wait for tools.

Knows: both forms, which may stand in one file. Does not know: files, other formats.
Source of the form: casys-kaist/LLMServingSim. `tool_duration_ns` is the pause after its call and before the
next one of the session; each call gives its whole prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from diptych.workload.lines import Lines
from diptych.workload.nearest import nearest
from diptych.workload.record import Arrival

NOTES = ("LLMServingSim: token ids, where given, are not kept; nothing is known of shared prefixes",)
NS = 1e9


class _Call(msgspec.Struct):
    input_toks: int
    output_toks: int
    tool_duration_ns: float = 0


class _Row(msgspec.Struct):
    arrival_time_ns: float
    input_toks: int | None = None
    output_toks: int | None = None
    session_id: str | int | None = None
    sub_requests: list[_Call] | None = None


def read(lines: Iterable[str], source: str = "trace", *, ordered: bool = True) -> Iterator[Arrival]:
    """Arrivals line by line; the calls of a session one after the other, each with its pause."""
    decode = msgspec.json.Decoder(_Row).decode
    cursor = Lines(lines, source, ordered=ordered)
    for text in cursor:
        try:
            row = decode(text)
        except (msgspec.DecodeError, UnicodeEncodeError) as error:
            raise _explained(cursor, text, error) from None
        t_s = cursor.instant_s("arrival_time_ns", row.arrival_time_ns / NS)
        if row.sub_requests is None:
            yield _single(cursor, row, t_s)
        else:
            session = f"line {cursor.number}" if row.session_id is None else str(row.session_id)
            yield from _session(cursor, row.sub_requests, session, t_s)


def _single(cursor: Lines, row: _Row, t_s: float) -> Arrival:
    if row.input_toks is None or row.output_toks is None:
        missing = "input_toks" if row.input_toks is None else "output_toks"
        raise cursor.refuse(missing, "missing; give it, or `sub_requests` for a session")
    return Arrival(
        t_s=t_s,
        input_tokens=cursor.tokens("input_toks", row.input_toks),
        output_tokens=cursor.tokens("output_toks", row.output_toks),
        session_id=None if row.session_id is None else str(row.session_id),
    )


def _session(cursor: Lines, calls: list[_Call], session: str, t_s: float) -> Iterator[Arrival]:
    if not calls:
        raise cursor.refuse("sub_requests", "is empty; at least one call")
    pause_s: float | None = None
    for place, call in enumerate(calls):
        field = f"sub_requests[{place}]"
        yield Arrival(
            t_s=t_s,
            input_tokens=cursor.tokens(f"{field}.input_toks", call.input_toks),
            output_tokens=cursor.tokens(f"{field}.output_toks", call.output_toks),
            session_id=session,
            delay_s=pause_s,
        )
        pause_s = cursor.seconds(f"{field}.tool_duration_ns", call.tool_duration_ns / NS)


def _explained(cursor: Lines, text: str, error: Exception) -> Exception:
    try:
        row = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError) as syntax:
        return cursor.not_json(text, syntax)
    if not isinstance(row, dict):
        return cursor.refuse("row", "is not an object with `input_toks`, `output_toks` and `arrival_time_ns`")
    if "arrival_time_ns" not in row:
        near = nearest("arrival_time_ns", row)
        return cursor.refuse("arrival_time_ns", f"missing{f'; found {near!r}' if near else ''}")
    reason, _, where = str(error).partition(" - at `$.")
    return cursor.refuse(where.rstrip("`") or "row", reason)
