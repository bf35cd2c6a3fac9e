"""Prompts of a wanted length whose common prefixes are those of the workload.

Knows: hash ids, token ids, words. Does not know: HTTP, who asks. Everything is rendered as the JSON that goes
into a body, block by block, since a long trace repeats its blocks thousands of times.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from functools import lru_cache
from hashlib import shake_128
from typing import Protocol

from diptych.bench.schedule import Due

FIRST_ID = 16
"""Ids below it are not drawn: many vocabularies begin with their special tokens."""
KEPT_BLOCKS = 4096
"""Rendered blocks of 512 ids take about 2.5 KB each."""

WORDS = tuple(
    "the and was said with they from then have went that little when came were there what into some down "  # noqa: SIM905
    "would upon could them like over very more know".split()
)
"""Common words: one token each, with the blank before it, in most vocabularies of English."""


class Prompts(Protocol):
    """Makes prompts."""

    def render(self, due: Due) -> bytes:
        """The prompt as JSON: a value for ``prompt`` or for ``content``."""
        ...


class _Blocks:
    """Walks over a request's blocks; what a block's units are is a subclass's matter."""

    def __init__(self, block_units: int, seed: int) -> None:
        self._block_units = block_units
        self._seed = seed
        self._whole = lru_cache(maxsize=KEPT_BLOCKS)(self._part)

    def _parts(self, due: Due, units: int) -> list[bytes]:
        """Equal leading hash ids give equal leading parts; what lies beyond them is the request's own."""
        parts: list[bytes] = []
        for hash_id in due.hash_ids:
            if units <= 0:
                break
            size = min(units, self._block_units)
            make = self._whole if size == self._block_units else self._part
            parts.append(make(f"block/{hash_id}", size))
            units -= size
        if units > 0:
            parts.append(self._part(f"own/{due.index}", units))
        return parts

    def _bytes(self, name: str, size: int) -> bytes:
        """The first bytes of an endless row that the name and the seed determine."""
        return shake_128(f"{self._seed}/{name}".encode()).digest(size)

    def _part(self, name: str, units: int) -> bytes:
        raise NotImplementedError


class TokenPrompts(_Blocks):
    """Lists of token ids: exactly as long as wanted."""

    def __init__(self, vocabulary: int, block_tokens: int, seed: int) -> None:
        super().__init__(block_tokens, seed)
        self._first = FIRST_ID if vocabulary > 2 * FIRST_ID else 0
        self._ids = vocabulary - self._first

    def render(self, due: Due) -> bytes:
        """A JSON list."""
        return b"[" + b",".join(self._parts(due, due.input_tokens)) + b"]"

    def _part(self, name: str, units: int) -> bytes:
        row = array("I", self._bytes(name, array("I").itemsize * units))
        return ",".join([str(self._first + number % self._ids) for number in row]).encode()


@dataclass(frozen=True)
class WordScale:
    """Tokens that the server counts for a text of n words: ``fixed + per_word * n``."""

    fixed: float = 0.0
    per_word: float = 1.0

    @classmethod
    def through(cls, few: tuple[int, int], many: tuple[int, int]) -> WordScale:
        """From two pairs of (words, tokens)."""
        per_word = max((many[1] - few[1]) / (many[0] - few[0]), 1e-3)
        return cls(fixed=few[1] - per_word * few[0], per_word=per_word)


class WordPrompts(_Blocks):
    """Text for a chat: about as long as wanted, since the server's template and tokeniser decide."""

    def __init__(self, scale: WordScale, block_tokens: int, seed: int) -> None:
        super().__init__(max(1, round(block_tokens / scale.per_word)), seed)
        self._scale = scale

    def render(self, due: Due) -> bytes:
        """A JSON string."""
        words = max(1, round((due.input_tokens - self._scale.fixed) / self._scale.per_word))
        return b'"' + b" ".join(self._parts(due, words)) + b'"'

    def _part(self, name: str, units: int) -> bytes:
        return " ".join([WORDS[number % len(WORDS)] for number in self._bytes(name, units)]).encode()
