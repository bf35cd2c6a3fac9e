"""How much text one token can hold at the most: what cannot fit is known without tokenising it.

Knows: which tokenisers keep every byte. Does not know: models' limits.
"""

from __future__ import annotations

from typing import Any

import orjson
from tokenizers import Tokenizer, pre_tokenizers

_NFC_SHRINKS = 4
"""No character is composed of more: Unicode's longest canonical decomposition."""


def most_characters(raw: Tokenizer) -> int | None:
    """Characters of text that one token can stand for; None where a token may swallow any number of them.

    Holds for byte-level vocabularies: each character is one byte or more, and each byte is in some token.
    """
    described = orjson.loads(raw.to_str())
    shrinks = _shrinks(described.get("normalizer"))
    vocabulary = raw.get_vocab(with_added_tokens=True)
    whole = all(byte in vocabulary for byte in pre_tokenizers.ByteLevel.alphabet())
    if shrinks is None or not whole or not _byte_level(described.get("pre_tokenizer")):
        return None
    if any(token.lstrip or token.rstrip for token in raw.get_added_tokens_decoder().values()):
        return None  # takes all blanks beside it along
    return shrinks * max(len(piece.encode()) for piece in vocabulary)


def _shrinks(normalizer: dict[str, Any] | None) -> int | None:
    """Characters that become one; None if text may vanish."""
    if normalizer is None:
        return 1
    return _NFC_SHRINKS if normalizer["type"] == "NFC" else None


def _byte_level(step: dict[str, Any] | None) -> bool:
    """Whether text is cut without loss, and then spelled as bytes."""
    match step:
        case {"type": "ByteLevel"}:
            return True
        case {"type": "Sequence", "pretokenizers": [*before, {"type": "ByteLevel"}]}:
            return all(_cuts(inner) for inner in before)
        case _:
            return False


def _cuts(step: dict[str, Any]) -> bool:
    return step["type"] == "Digits" or (step["type"] == "Split" and step["behavior"] != "Removed")
