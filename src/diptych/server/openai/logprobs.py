"""Log-probabilities in the shapes of chat, of completions, and of vLLM's `prompt_logprobs`.

Knows: JSON shapes. Does not know: where the numbers come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diptych.domain.ids import TokenId
from diptych.domain.request import Logprob
from diptych.server.choice import TokenRecord
from diptych.server.text.tokenizer import TextTokenizer

_LOWEST = -9999.0
"""Stands for minus infinity, which JSON does not have."""


def chat_logprobs(records: Sequence[TokenRecord], tokenizer: TextTokenizer) -> dict[str, Any]:
    """`choices[].logprobs` of chat."""
    content: list[dict[str, Any]] = []
    for record in records:
        if (found := record.logprob) is None:
            continue
        top = [_chat_token(token_id, value, tokenizer) for token_id, value in found.top]
        content.append({**_chat_token(record.token_id, found.logprob, tokenizer), "top_logprobs": top})
    return {"content": content, "refusal": None}


def completion_logprobs(records: Sequence[TokenRecord], tokenizer: TextTokenizer, top: int) -> dict[str, Any]:
    """`choices[].logprobs` of completions. The first token of an echoed prompt has null."""
    entries = [record.logprob for record in records]
    return {
        "tokens": [tokenizer.token_text(record.token_id) for record in records],
        "token_logprobs": [None if entry is None else _finite(entry.logprob) for entry in entries],
        "top_logprobs": [None if entry is None else _top(entry, tokenizer, top) for entry in entries],
        "text_offset": [record.text_offset for record in records],
    }


def prompt_logprobs(
    entries: Sequence[Logprob | None], tokenizer: TextTokenizer
) -> list[dict[str, Any] | None]:
    """`prompt_logprobs`: for each position null, or by token id: logprob, rank in the top, text."""
    return [None if entry is None else _ranked(entry, tokenizer) for entry in entries]


def _chat_token(token_id: TokenId, value: float, tokenizer: TextTokenizer) -> dict[str, Any]:
    data = tokenizer.token_bytes(token_id)
    return {"token": tokenizer.token_text(token_id), "logprob": _finite(value), "bytes": list(data)}


def _top(entry: Logprob, tokenizer: TextTokenizer, top: int) -> dict[str, float]:
    """The ``top`` likeliest, and in any case the token itself."""
    found = {tokenizer.token_text(token_id): _finite(value) for token_id, value in entry.top[:top]}
    return found | {tokenizer.token_text(entry.token_id): _finite(entry.logprob)}


def _ranked(entry: Logprob, tokenizer: TextTokenizer) -> dict[str, Any]:
    ranks = {token_id: place for place, (token_id, _) in enumerate(entry.top, start=1)}
    values = {entry.token_id: entry.logprob, **dict(entry.top)}
    return {
        str(token_id): {
            "logprob": _finite(value),
            "rank": ranks.get(token_id),
            "decoded_token": tokenizer.token_text(token_id),
        }
        for token_id, value in values.items()
    }


def _finite(value: float) -> float:
    return max(value, _LOWEST)
