"""Lines of a trace with their numbers, and the checks that every format shares.

Knows: which values a trace may hold, how a refusal is worded. Does not know: any one format, files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import isfinite
from typing import Final

from diptych.domain.errors import SpecError
from diptych.workload.not_finite import first_not_finite

MAX_TOKENS: Final = 100_000_000
"""Longest prompt or output that is believed, tokens; ten times the longest advertised context (Llama 4
Scout, 10 M, 2025). More is a wrong unit or a damaged line."""
MAX_T_S: Final = 1e9
"""Latest instant that is believed, seconds after the first (32 years): more is a wrong unit."""
WALL_CLOCK_S: Final = 1e8
"""A first instant later than this (three years) is a wall clock; the workload starts there."""
BLOCK_SIZES = (16, 32, 64, 128, 256, 512, 1024)
"""Sizes that traces and engines use, tokens; tried to explain a trace that does not fit its block size."""
SORT_REMEDY = "sort it with `diptych workload convert --sort IN OUT`"
BLOCKS_REMEDY = "write it anew with `diptych workload convert --block-tokens {} IN OUT`"
"""Not every command that reads traces can be told their blocks; every one reads what this writes."""


class Lines:
    """Hands out the lines of one trace that say something, and remembers which one it is at.

    ``source`` names the trace in messages. Empty lines and those that begin with ``#`` are passed over.
    ``sort`` is off where the reader's caller sorts afterwards: then instants may come in any order.
    """

    def __init__(self, lines: Iterable[str], source: str, *, ordered: bool = True) -> None:
        self._lines = lines
        self.source = source
        self.ordered = ordered
        self.number = 0
        self._origin_s: float | None = None
        self._latest_s = 0.0

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.number += 1
            text = line.strip().removeprefix("\ufeff")
            if text and text[0] != "#":
                yield text

    def refuse(self, field: str, reason: str) -> SpecError:
        """The error to raise about a field of this line."""
        return SpecError(f"{self.source}, line {self.number}: {field}: {reason}")

    def not_json(self, text: str, error: Exception) -> SpecError:
        """The error to raise about a line that does not parse."""
        found = first_not_finite(text)
        if found is None:
            return self.refuse("row", f"is not JSON ({error}); one object a line")
        field, number = found
        return self.refuse(field or "row", f"{number} is not a finite number")

    def tokens(self, field: str, value: int) -> int:
        """``value`` if it can be the length of a prompt or an output."""
        if 0 < value <= MAX_TOKENS:
            return value
        least = "at least 1 token" if value <= 0 else f"at most {MAX_TOKENS:,} tokens"
        raise self.refuse(field, f"{value} is not possible; {least}")

    def count(self, field: str, text: str) -> int:
        """A whole number out of a column."""
        try:
            return int(text)
        except ValueError:
            value = self.number_in(field, text)
        if not isfinite(value) or value != int(value):
            raise self.refuse(field, f"'{text}' is not a whole number")
        return int(value)

    def number_in(self, field: str, text: str) -> float:
        """A number out of a column."""
        try:
            return float(text)
        except ValueError:
            raise self.refuse(field, f"'{text}' is not a number") from None

    def seconds(self, field: str, value_s: float) -> float:
        """``value_s`` if it can be a pause or an instant."""
        if not isfinite(value_s):
            raise self.refuse(field, f"{value_s} is not a finite number")
        if value_s < 0:
            raise self.refuse(field, f"{value_s} is negative; at least 0")
        return value_s

    def instant_s(self, field: str, t_s: float) -> float:
        """Seconds from the start of the workload; never earlier than the line before."""
        t_s = self.seconds(field, t_s)
        if self._origin_s is None:
            self._origin_s = t_s if t_s > WALL_CLOCK_S else 0.0
        if self._origin_s:
            t_s -= self._origin_s
        if t_s > MAX_T_S:
            raise self.refuse(field, f"{t_s:g} s after the start is more than {MAX_T_S:g} s; check its unit")
        if t_s < self._latest_s and self.ordered:
            raise self.refuse(
                field, f"{t_s:g} s comes before the line above ({self._latest_s:g} s); {SORT_REMEDY}"
            )
        self._latest_s = max(t_s, self._latest_s) if self.ordered else t_s
        return t_s

    @property
    def latest_s(self) -> float:
        """The last instant that was handed out."""
        return self._latest_s

    def blocks(self, ids: tuple[int, ...], input_tokens: int, block_tokens: int) -> tuple[int, ...]:
        """``ids`` if a prompt of this length can have so many blocks."""
        most = -(-input_tokens // block_tokens)
        if len(ids) > most:
            fits = [size for size in BLOCK_SIZES if -(-input_tokens // size) == len(ids)]
            remedy = (
                f"; blocks of {fits[0]} tokens would fit: {BLOCKS_REMEDY.format(fits[0])}" if fits else ""
            )
            raise self.refuse(
                "hash_ids",
                f"{len(ids)} blocks of {block_tokens} tokens for a prompt of {input_tokens}{remedy}",
            )
        return ids
