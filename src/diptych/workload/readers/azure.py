"""Azure's LLM inference traces of 2023, 2024 and later: wall clock, prompt tokens, generated tokens.

Knows: their columns and their clock. Does not know: files, other formats.
Source: Azure/AzurePublicDataset (CC BY 4.0); later files add `NumImages` and an offset from UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from diptych.workload.lines import SORT_REMEDY, Lines
from diptych.workload.readers.columns import rows
from diptych.workload.record import Arrival

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
NOTES = ("Azure: token counts only; no sessions, no prefixes",)
CLOCK = re.compile(r"^(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:?\d\d)?$")
NS = 1_000_000_000


def read(lines: Iterable[str], source: str = "trace", *, ordered: bool = True) -> Iterator[Arrival]:
    """Arrivals line by line, the first at 0 s. Raises `SpecError` at the first wrong line."""
    cursor = Lines(lines, source, ordered=ordered)
    clock = _Clock(cursor)
    for stamp, prompt, output in rows(cursor, COLUMNS):
        yield Arrival(
            t_s=clock.since_first_s(stamp),
            input_tokens=cursor.tokens("ContextTokens", cursor.count("ContextTokens", prompt)),
            output_tokens=cursor.tokens("GeneratedTokens", cursor.count("GeneratedTokens", output)),
        )


class _Clock:
    """Wall clock to seconds from the first row. Rows of one second share the parsing of their date."""

    def __init__(self, cursor: Lines) -> None:
        self._cursor = cursor
        self._first_ns: int | None = None
        self._dates_s: tuple[str, int] = ("", 0)

    def since_first_s(self, stamp: str) -> float:
        match = CLOCK.match(stamp.strip())
        if match is None:
            raise self._cursor.refuse("TIMESTAMP", f"'{stamp}' is not like 2023-11-16 18:17:03.9799600")
        date, fraction, offset = match.groups()
        now_ns = self._date_s(date, offset or "") * NS + int((fraction or "").ljust(9, "0"))
        if self._first_ns is None:
            self._first_ns = now_ns
        if now_ns < self._first_ns and not self._cursor.ordered:
            return (now_ns - self._first_ns) / NS
        if now_ns < self._first_ns:
            raise self._cursor.refuse("TIMESTAMP", f"'{stamp}' comes before the first row; {SORT_REMEDY}")
        return self._cursor.instant_s("TIMESTAMP", (now_ns - self._first_ns) / NS)

    def _date_s(self, date: str, offset: str) -> int:
        if self._dates_s[0] == date + offset:
            return self._dates_s[1]
        try:
            moment = datetime.fromisoformat(date + offset)
        except ValueError as error:
            raise self._cursor.refuse("TIMESTAMP", f"'{date}{offset}': {error}") from None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        self._dates_s = (date + offset, int(moment.timestamp()))
        return self._dates_s[1]
