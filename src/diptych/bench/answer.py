"""A streamed answer of either endpoint, event by event, into a `Sample`.

Knows: chunks of OpenAI's dialect, which of them bear tokens and how many. Does not know: sockets, other
requests.
"""

from __future__ import annotations

from typing import Any

import orjson

from diptych.bench.sample import Outcome, Sample

DONE = b"[DONE]"

Json = dict[str, Any]


class BrokenAnswer(Exception):
    """What came is no answer. ``code`` is ours or the server's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class StreamedAnswer:
    """Takes events in order; `finish` settles the sample."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._released: list[int | None] = []
        """Tokens known to have come up to each token-bearing chunk; None where it does not say."""
        self._ids = 0
        self._silent_end_s: float | None = None
        """A chunk with a finish reason and nothing else, if that was the last."""
        self._done = False

    def take(self, data: bytes, at_s: float) -> None:
        """One event. Raises `BrokenAnswer` for an error frame and for what is no chunk."""
        if data == DONE:
            self._done = True
            return
        chunk = _parsed(data)
        if chunk.get("error") is not None:
            raise error_of(chunk, "stream_error")
        self._take_usage(chunk)
        for choice in chunk.get("choices") or ():
            self._take_choice(choice, chunk.get("usage"), at_s)
        for timeline in (chunk.get("metrics") or {}).get("choices") or ():
            self._sample.server = timeline

    def finish(self) -> None:
        """The response has ended. Raises `BrokenAnswer` if the answer has not."""
        sample = self._sample
        if not self._done:
            raise BrokenAnswer("truncated_stream", "the response ended before [DONE]")
        if sample.finish_reason is None:
            raise BrokenAnswer("no_finish_reason", "the stream ended without a finish reason")
        if sample.usage_output_tokens is None and self._ids:
            sample.usage_output_tokens = self._ids  # the server's own tokens, one by one
        self._place_silent_end()
        if not sample.chunk_s:
            raise BrokenAnswer("empty_stream", "the stream had no token")
        sample.chunk_tokens = self._counts()
        sample.outcome = Outcome.COMPLETED

    # ------------------------------------------------------------ chunks

    def _take_usage(self, chunk: Json) -> None:
        usage = chunk.get("usage")
        if not usage:
            return
        self._sample.usage_prompt_tokens = usage.get("prompt_tokens")
        self._sample.usage_output_tokens = usage.get("completion_tokens")
        self._sample.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")

    def _take_choice(self, choice: Json, usage: Json | None, at_s: float) -> None:
        ids = choice.get("token_ids")
        self._ids += len(ids or ())
        reason = choice.get("finish_reason")
        self._sample.finish_reason = reason or self._sample.finish_reason
        if _bears_token(choice):
            running = usage.get("completion_tokens") if usage else None
            self._released.append(running or (self._ids if ids is not None else None))
            self._sample.chunk_s.append(at_s)
        elif reason is not None:
            self._silent_end_s = at_s

    def _place_silent_end(self) -> None:
        """A last chunk that says nothing but why it ended may stand for a last token without text (half a
        character, a special token): it does if fewer tokens than all have come before it."""
        n, at_s = self._sample.usage_output_tokens, self._silent_end_s
        if at_s is not None and n is not None and (self._known() or 0) < n:
            self._sample.chunk_s.append(at_s)
            self._released.append(n if self._exact else None)

    # ------------------------------------------------------------ tokens by chunk

    @property
    def _exact(self) -> bool:
        return bool(self._released) and None not in self._released

    def _known(self) -> int:
        """Tokens that must have come so far: one a chunk, or more where a chunk says so."""
        known = 0
        for released in self._released:
            known = max(known + 1, released or 0)
        return known

    def _counts(self) -> list[int] | None:
        """Tokens of each chunk, if they add up to n: ids can lag behind tokens whose text is held back, so a
        chunk has at least one."""
        counts: list[int] = []
        known = 0
        for released in self._released:
            now = max(known + 1, released or 0)
            counts.append(now - known)
            known = now
        return counts if known == self._sample.usage_output_tokens else None


def error_of(body: Json, default: str) -> BrokenAnswer:
    """The error that a body carries; ``default`` is the code of one that has none."""
    error = body.get("error")
    if not isinstance(error, dict):
        return BrokenAnswer(default, str(error or body)[:500])
    code = error.get("code") or error.get("type") or default
    return BrokenAnswer(str(code), str(error.get("message", ""))[:500])


def _parsed(data: bytes) -> Json:
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BrokenAnswer("invalid_chunk", f"an event is no JSON: {error}") from None
    if not isinstance(chunk, dict):
        raise BrokenAnswer("invalid_chunk", "an event is no JSON object")
    return chunk


def _bears_token(choice: Json) -> bool:
    """Text or ids; or, on the way, an empty piece: its token's text is held back. The first delta of a chat,
    which tells the role, and the last chunk may come without any token."""
    delta = choice.get("delta")
    said = choice if delta is None else delta
    if choice.get("token_ids") or any(
        said.get(key) for key in ("text", "content", "reasoning", "reasoning_content", "tool_calls")
    ):
        return True
    return choice.get("finish_reason") is None and "role" not in said
