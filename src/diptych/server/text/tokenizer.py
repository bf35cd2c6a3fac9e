"""A model's tokeniser: text ↔ token ids, and the text and bytes of single tokens.

Knows: `tokenizer.json`, byte-level and byte-fallback vocabularies. Does not know: templates, requests.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson
from tokenizers import Tokenizer

from diptych.domain.errors import SpecError
from diptych.domain.ids import TokenId
from diptych.server.text.density import most_characters

TOKENIZER_FILE = "tokenizer.json"
"""Its name in a model directory."""

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TextTokenizer:
    """Wraps a `tokenizers.Tokenizer`, which is open to `Detokenizer` as ``raw``."""

    def __init__(self, raw: Tokenizer) -> None:
        raw.no_truncation()
        raw.no_padding()
        self.raw = raw
        self.vocab_size = raw.get_vocab_size(with_added_tokens=True)
        self.most_characters = most_characters(raw)
        """Characters that one token can stand for, if there is a bound."""
        self._added = {token_id: token.content for token_id, token in raw.get_added_tokens_decoder().items()}
        self._byte_level = _has_decoder(orjson.loads(raw.to_str()).get("decoder"), "ByteLevel")

    @staticmethod
    def from_file(path: Path) -> TextTokenizer:
        """Read a file such as ``tokenizer.json``. Raises `SpecError` if it is missing or not valid."""
        if not path.is_file():
            raise SpecError(
                f"{path} is missing: a model directory needs one; fetch the model again, or save its "
                "tokenizer there with transformers"
            )
        try:
            return TextTokenizer(Tokenizer.from_buffer(path.read_bytes()))
        except ValueError as error:
            raise SpecError(f"{path} is not a valid tokenizer.json: {error}") from None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[TokenId]:
        """Token ids of ``text``; other threads run meanwhile."""
        return self.raw.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, token_ids: list[TokenId], *, skip_special_tokens: bool) -> str:
        """Text of ``token_ids``, taken as a whole."""
        return self.raw.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def id_of(self, token: str) -> TokenId | None:
        """Id of a token by its exact spelling."""
        return self.raw.token_to_id(token)

    def token_bytes(self, token_id: TokenId) -> bytes:
        """The bytes that one token stands for; empty for ids beyond the vocabulary."""
        if token_id in self._added:
            return self._added[token_id].encode()
        piece = self.raw.id_to_token(token_id)
        if piece is None:
            return b""
        if self._byte_level:
            return _byte_level_bytes(piece)
        if found := _BYTE_PIECE.fullmatch(piece):
            return bytes([int(found[1], 16)])
        return piece.replace("\u2581", " ").encode()

    def token_text(self, token_id: TokenId) -> str:
        """One token for reading: its text, or ``bytes:\\xe4\\xbd`` where that is no whole character."""
        data = self.token_bytes(token_id)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _has_decoder(decoder: dict[str, Any] | None, kind: str) -> bool:
    if decoder is None:
        return False
    return decoder.get("type") == kind or any(_has_decoder(d, kind) for d in decoder.get("decoders", []))


def _byte_level_bytes(piece: str) -> bytes:
    """Undo the printable spelling of bytes that byte-level vocabularies use."""
    table = _byte_of_character()
    return b"".join(bytes([table[c]]) if c in table else c.encode() for c in piece)


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """GPT-2's table: printable Latin-1 bytes stand for themselves, all others for U+0100 and on, in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in sorted(printable)}
    return table | {chr(0x100 + place): byte for place, byte in enumerate(hidden)}
