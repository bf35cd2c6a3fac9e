"""Bailian's JSON lines: chats of Alibaba's model studio, with ids of 16-token blocks.

Knows: its fields and units. Does not know: files, other formats.
Source of the form: alibaba-edu/qwen-bailian-usagetraces-anon (seconds; `parent_chat_id` −1 for a first
turn). Its ids name single blocks; here an id stands for all up to its block, so they are chained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from diptych.workload.blocks import chained
from diptych.workload.lines import Lines
from diptych.workload.record import Arrival

BLOCK_TOKENS = 16
"""Tokens that one hash id stands for; the publisher's description, 2025."""
NOTES = ("Bailian: type and turn are not kept; ids are chained so that one stands for its whole prefix",)


class _Row(msgspec.Struct):
    chat_id: int
    timestamp: float
    input_length: int
    output_length: int
    parent_chat_id: int = -1
    hash_ids: tuple[int, ...] = ()


def read(
    lines: Iterable[str], source: str = "trace", *, block_tokens: int = BLOCK_TOKENS, ordered: bool = True
) -> Iterator[Arrival]:
    """Arrivals line by line; a session is named after its first chat. Raises `SpecError` at a wrong line."""
    decode = msgspec.json.Decoder(_Row).decode
    cursor = Lines(lines, source, ordered=ordered)
    roots: dict[int, int] = {}
    for text in cursor:
        try:
            row = decode(text)
        except msgspec.ValidationError as error:
            reason, _, where = str(error).partition(" - at `$.")
            raise cursor.refuse(where.rstrip("`") or "row", reason) from None
        except (msgspec.DecodeError, UnicodeEncodeError) as error:
            raise cursor.not_json(text, error) from None
        root = roots.get(row.parent_chat_id, row.chat_id if row.parent_chat_id < 0 else row.parent_chat_id)
        roots[row.chat_id] = root
        yield Arrival(
            t_s=cursor.instant_s("timestamp", row.timestamp),
            input_tokens=cursor.tokens("input_length", row.input_length),
            output_tokens=cursor.tokens("output_length", row.output_length),
            hash_ids=chained(cursor.blocks(row.hash_ids, row.input_length, block_tokens)),
            session_id=str(root),
        )
