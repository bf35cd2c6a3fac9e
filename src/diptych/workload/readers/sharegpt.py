"""ShareGPT's JSON: conversations, of which the first two turns make a prompt and its output.

Knows: the form, in one array or in lines. Does not know: files, tokenisers (a callable counts).
Source of the form: anon8231489123/ShareGPT_Vicuna_unfiltered; that the first two turns count is vLLM's habit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from diptych.domain.errors import SpecError
from diptych.workload.record import Arrival

Count = Callable[[str], int]
"""Tokens of a text."""
CHARACTERS_PER_TOKEN = 4.0
"""Characters of one token where nobody says better: OpenAI's rule of thumb for English, 2023."""
SPACES = " \t\r\n,"


def by_characters(per_token: float = CHARACTERS_PER_TOKEN) -> Count:
    """Estimates tokens from characters, at least one."""
    if not 0 < per_token < float("inf"):
        raise SpecError(f"characters per token: {per_token:g} is not possible; a number above 0")
    return lambda text: max(1, round(len(text) / per_token))


def read(pieces: Iterable[str], source: str, count: Count) -> Iterator[Arrival]:
    """Arrivals, all at 0 s; conversations of fewer than two turns are left out. Raises `SpecError`."""
    for number, row in enumerate(objects(pieces, source), 1):
        turns = row.get("conversations", row.get("conversation")) if isinstance(row, dict) else None
        if not isinstance(turns, list):
            raise SpecError(f"{source}, conversation {number}: conversations: missing; a list of turns")
        if len(turns) < 2:
            continue
        prompt, output = (_text(turn, place, source, number) for place, turn in enumerate(turns[:2]))
        if prompt and output:
            yield Arrival(t_s=0.0, input_tokens=count(prompt), output_tokens=count(output))


def objects(pieces: Iterable[str], source: str) -> Iterator[Any]:
    """Values of one JSON array, or one after the other, without holding more than one and a piece."""
    decoder = json.JSONDecoder()
    buffer = ""
    in_array = None
    for piece in pieces:
        buffer += piece
        if in_array is None and buffer.lstrip("\ufeff \t\r\n"):
            buffer = buffer.lstrip("\ufeff \t\r\n")
            in_array = buffer[0] == "["
            buffer = buffer[1:] if in_array else buffer
        if len(buffer) > len(piece) and "}" not in piece:
            continue  # a value is longer than the pieces; trying it again at each would be quadratic
        place = 0
        while True:
            place = _skip(buffer, place)
            if place == len(buffer) or buffer[place] == "]":
                break
            try:
                value, place = decoder.raw_decode(buffer, place)
            except json.JSONDecodeError:
                break
            yield value
        buffer = buffer[place:]
    if rest := buffer.strip(SPACES + "]"):
        raise SpecError(f"{source}: is not JSON from '{rest[:40]}' on; an array of conversations")


def _skip(buffer: str, place: int) -> int:
    while place < len(buffer) and buffer[place] in SPACES:
        place += 1
    return place


def _text(turn: object, place: int, source: str, number: int) -> str:
    value = turn.get("value", turn.get("content")) if isinstance(turn, dict) else None
    if isinstance(value, str):
        return value
    raise SpecError(f"{source}, conversation {number}: conversations[{place}].value: missing; a text")
