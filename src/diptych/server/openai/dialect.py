"""How choices become JSON: chat and text completions differ in this file and nowhere else.

Knows: shapes of choices, whole and in chunks. Does not know: HTTP, waiting, usage.
"""

from __future__ import annotations

from typing import Any, Protocol

from diptych.server.choice import Choice, Piece
from diptych.server.openai.logprobs import chat_logprobs, completion_logprobs, prompt_logprobs
from diptych.server.text.tokenizer import TextTokenizer

Json = dict[str, Any]


class Dialect(Protocol):
    """One kind of completion."""

    id_prefix: str
    unary_object: str
    chunk_object: str

    def whole(self, choice: Choice, piece: Piece) -> Json:
        """An element of `choices` of a unary answer."""
        ...

    def chunk(self, choice: Choice, piece: Piece, *, first: bool, last: bool) -> Json:
        """An element of `choices` of a chunk. ``last`` carries the finish reason."""
        ...

    def extras(self, choice: Choice, /) -> Json:
        """Top-level fields of a unary answer."""
        ...


class Chat:
    """`/v1/chat/completions`"""

    id_prefix = "chatcmpl-"
    unary_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer

    def whole(self, choice: Choice, piece: Piece) -> Json:
        """A message."""
        return {
            "index": choice.index,
            "message": {"role": "assistant", "content": piece.text, "refusal": None},
            "logprobs": self._logprobs(choice, piece),
            **_end(choice),
            **_token_ids(choice, piece),
        }

    def chunk(self, choice: Choice, piece: Piece, *, first: bool, last: bool) -> Json:
        """A delta: the role in the first; text in each (empty while it is held back), in the last if any is
        left."""
        delta: Json = {"role": "assistant"} if first else {}
        if piece.text or first or not last:
            delta["content"] = piece.text
        silent = last and not piece.records
        return {
            "index": choice.index,
            "delta": delta,
            "logprobs": None if silent else self._logprobs(choice, piece),
            **(_end(choice) if last else {"finish_reason": None}),
            **_token_ids(choice, piece),
        }

    def extras(self, choice: Choice, /) -> Json:
        """The one prompt's own fields, as vLLM has them."""
        return _of_prompt(choice, self._tokenizer)

    def _logprobs(self, choice: Choice, piece: Piece) -> Json | None:
        return None if choice.wishes.logprobs is None else chat_logprobs(piece.records, self._tokenizer)


class Completion:
    """`/v1/completions`"""

    id_prefix = "cmpl-"
    unary_object = "text_completion"
    chunk_object = "text_completion"

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer

    def whole(self, choice: Choice, piece: Piece) -> Json:
        """A text, with the prompt in front if it was to be echoed."""
        return {
            "index": choice.index,
            "text": piece.text,
            "logprobs": self._logprobs(choice, piece),
            **_end(choice),
            **_token_ids(choice, piece),
            **_of_prompt(choice, self._tokenizer),
        }

    def chunk(self, choice: Choice, piece: Piece, *, first: bool, last: bool) -> Json:
        """A piece of the text."""
        ids = choice.wishes.return_token_ids and first
        silent = last and not piece.records
        return {
            "index": choice.index,
            "text": piece.text,
            "logprobs": None if silent else self._logprobs(choice, piece),
            **(_end(choice) if last else {"finish_reason": None}),
            **_token_ids(choice, piece),
            **({"prompt_token_ids": choice.prompt.token_ids} if ids else {}),
        }

    def extras(self, _choice: Choice, /) -> Json:
        """None: a call may have several prompts."""
        return {}

    def _logprobs(self, choice: Choice, piece: Piece) -> Json | None:
        top = choice.wishes.logprobs
        return None if top is None else completion_logprobs(piece.records, self._tokenizer, top)


def _end(choice: Choice) -> Json:
    return {"finish_reason": choice.finish_reason, "stop_reason": choice.stop_reason}


def _token_ids(choice: Choice, piece: Piece) -> Json:
    if not choice.wishes.return_token_ids:
        return {}
    return {"token_ids": [record.token_id for record in piece.records if not record.of_prompt]}


def _of_prompt(choice: Choice, tokenizer: TextTokenizer) -> Json:
    found: Json = {}
    if choice.wishes.prompt_logprobs is not None:
        found["prompt_logprobs"] = prompt_logprobs(choice.prompt_logprobs, tokenizer)
    if choice.wishes.return_token_ids:
        found["prompt_token_ids"] = choice.prompt.token_ids
    return found
