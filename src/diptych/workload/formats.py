"""Which format a trace is in, told by its first line, and how each is read.

Knows: what tells formats apart. Does not know: files, what is in a format (that is each reader's).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from diptych.domain.errors import SpecError
from diptych.workload.lines import Lines
from diptych.workload.nearest import nearest
from diptych.workload.readers import agents, azure, bailian, burstgpt, lengths_csv, mooncake, sharegpt
from diptych.workload.record import DEFAULT_BLOCK_TOKENS, Arrival

UNTIMED = (
    "lengths only: every request arrives at 0 s; `synthetic:poisson,rate=…,lengths=FILE` gives them times"
)


@dataclass(frozen=True)
class Reading:
    """How to read a trace, where it does not say so itself."""

    block_tokens: int | None = None
    """Tokens of one hash id; None: what the trace says, else what its format has."""
    ordered: bool = True
    """Whether lines out of order are refused. Off only for what sorts afterwards."""
    count_tokens: sharegpt.Count = field(default_factory=sharegpt.by_characters)
    """Counts the tokens of a text, for traces that hold texts."""
    count_note: str = f"lengths estimated at {sharegpt.CHARACTERS_PER_TOKEN:g} characters a token"
    """What ``count_tokens`` does, in words."""
    seed: int = 0
    """For traces that describe a workload without listing its requests (ServeGen)."""


@dataclass(frozen=True)
class Opened:
    """A trace whose format is known: what its lines are to be handed to."""

    name: str
    read: Callable[[Iterable[str], str], Iterator[Arrival]]
    block_tokens: int
    notes: tuple[str, ...]


def opened(head: Sequence[str], source: str, reading: Reading) -> Opened:
    """Tells the format by the first lines of a trace. Raises `SpecError` if it is none that is known."""
    cursor = Lines(head, source)
    first = next(iter(cursor), "")
    if not first:
        raise SpecError(f"{source}: has no requests; a trace of one of: {', '.join(FORMATS)}")
    return FORMATS[_format(first, cursor)](head, reading)


def _format(first: str, cursor: Lines) -> str:
    source = cursor.source
    if first[0] == "[":
        return "sharegpt"
    if first[0] != "{":
        return _csv(first, source)
    try:
        row = msgspec.json.decode(first)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        if '"conversations"' in first:
            return "sharegpt"  # one object over several lines
        raise cursor.not_json(first, error) from None
    for name, fields in JSON_SIGNS.items():
        if any(key in row for key in fields):
            return name
    known = [key for fields in JSON_SIGNS.values() for key in fields]
    near = next((found for key in row if (found := nearest(key, known))), None)
    hint = f"did you mean '{near}'?" if near else f"it has {', '.join(row) or 'no fields'}"
    wanted = "needs `timestamp`, `input_length`, `output_length` (native)"
    raise SpecError(f"{source}, first line: no known format; {hint}; {wanted}")


def _csv(first: str, source: str) -> str:
    header = [name.strip().strip('"') for name in first.split(",")]
    for name, columns in CSV_SIGNS.items():
        if columns[0] in header:
            return name
    known = [columns[0] for columns in CSV_SIGNS.values()]
    near = next((found for key in header if (found := nearest(key, known))), None)
    hint = f"did you mean '{near}'?" if near else f"a header with one of: {', '.join(known)}"
    raise SpecError(f"{source}, first line: no known columns ({', '.join(header)[:80]}); {hint}")


JSON_SIGNS = {
    "sharegpt": ("conversations", "conversation"),
    "llmservingsim": ("sub_requests", "input_toks", "arrival_time_ns"),
    "bailian": ("parent_chat_id", "chat_id"),
    "mooncake": ("input_length", "output_length", "timestamp"),
}
"""Fields that only this format has, asked in this order."""
CSV_SIGNS = {"azure": azure.COLUMNS, "burstgpt": burstgpt.COLUMNS, "lengths": lengths_csv.COLUMNS}
"""The first column named is the sign."""


def _mooncake(head: Sequence[str], reading: Reading) -> Opened:
    block_tokens = reading.block_tokens or mooncake.header_block_tokens(head) or DEFAULT_BLOCK_TOKENS
    dropped = mooncake.unknown_fields(head)
    notes = (f"fields that are not kept: {', '.join(dropped)}",) if dropped else ()

    def read(lines: Iterable[str], source: str) -> Iterator[Arrival]:
        return mooncake.read(lines, source, block_tokens=block_tokens, ordered=reading.ordered)

    return Opened("mooncake", read, block_tokens, notes)


def _bailian(_: Sequence[str], reading: Reading) -> Opened:
    block_tokens = reading.block_tokens or bailian.BLOCK_TOKENS

    def read(lines: Iterable[str], source: str) -> Iterator[Arrival]:
        return bailian.read(lines, source, block_tokens=block_tokens, ordered=reading.ordered)

    return Opened("bailian", read, block_tokens, bailian.NOTES)


def _azure(head: Sequence[str], reading: Reading) -> Opened:
    notes = azure.NOTES
    if "NumImages" in "".join(head[:1]):
        notes = (*notes, "NumImages is not kept")
    read = lambda lines, source: azure.read(lines, source, ordered=reading.ordered)  # noqa: E731
    return Opened("azure", read, DEFAULT_BLOCK_TOKENS, notes)


def _burstgpt(_: Sequence[str], reading: Reading) -> Opened:
    read = lambda lines, source: burstgpt.read(lines, source, ordered=reading.ordered)  # noqa: E731
    return Opened("burstgpt", read, DEFAULT_BLOCK_TOKENS, burstgpt.NOTES)


def _llmservingsim(_: Sequence[str], reading: Reading) -> Opened:
    read = lambda lines, source: agents.read(lines, source, ordered=reading.ordered)  # noqa: E731
    return Opened("llmservingsim", read, DEFAULT_BLOCK_TOKENS, agents.NOTES)


def _lengths(_: Sequence[str], __: Reading) -> Opened:
    return Opened("lengths", lengths_csv.read, DEFAULT_BLOCK_TOKENS, (UNTIMED,))


def _sharegpt(_: Sequence[str], reading: Reading) -> Opened:
    read = lambda lines, source: sharegpt.read(lines, source, reading.count_tokens)  # noqa: E731
    notes = (UNTIMED, reading.count_note, "ShareGPT: first two turns of each conversation")
    return Opened("sharegpt", read, DEFAULT_BLOCK_TOKENS, notes)


FORMATS: dict[str, Callable[[Sequence[str], Reading], Opened]] = {
    "mooncake": _mooncake,
    "azure": _azure,
    "burstgpt": _burstgpt,
    "sharegpt": _sharegpt,
    "lengths": _lengths,
    "bailian": _bailian,
    "llmservingsim": _llmservingsim,
}
"""Formats by name; ServeGen's is a folder and not told by a line."""
