"""Token by token to text, never splitting a character.

Knows: `DecodeStream` and what it leaves to its caller: the rest at the end, and sequences that it refuses.
Does not know: stop strings, requests.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream

from diptych.domain.ids import TokenId
from diptych.server.text.tokenizer import TextTokenizer

_CONTEXT_TOKENS = 6
"""Prompt tokens that the decoder sees: whether a word starts with a space depends on what is before it."""
_MOST_PENDING_TOKENS = 32
"""No character has this many tokens: what is held so long is not text and goes out as it decodes."""
_REPLACEMENT = "\ufffd"


class Detokenizer:
    """The text of one output. What it gives depends on the tokens alone, not on how they are batched."""

    def __init__(
        self, tokenizer: TextTokenizer, prompt_token_ids: Sequence[TokenId] = (), *, skip_special_tokens: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._pending: list[TokenId] = []
        self._stream = self._start(list(prompt_token_ids[-_CONTEXT_TOKENS:]))

    def step(self, token_id: TokenId) -> str:
        """Text that is certain now; empty while a character is incomplete."""
        self._pending.append(token_id)
        try:
            text = self._stream.step(self._tokenizer.raw, token_id)
        except Exception:  # noqa: BLE001 - the library raises plain `Exception` when earlier text would change
            return self.finish()
        if text is not None:
            self._pending.clear()
            return text
        return self.finish() if len(self._pending) >= _MOST_PENDING_TOKENS else ""

    def finish(self) -> str:
        """The rest, with replacement characters where bytes are missing. Starts anew."""
        if not self._pending:
            return ""
        rest = self._tokenizer.decode(self._pending, skip_special_tokens=self._skip)
        self._pending.clear()
        self._stream = self._start([])
        return rest

    def _start(self, context: list[TokenId]) -> DecodeStream:
        """A stream behind ``context``; without it if it ends inside a character."""
        seen = self._tokenizer.decode(context, skip_special_tokens=self._skip) if context else ""
        usable = bool(seen) and not seen.endswith(_REPLACEMENT)
        return DecodeStream(context if usable else None, skip_special_tokens=self._skip)
