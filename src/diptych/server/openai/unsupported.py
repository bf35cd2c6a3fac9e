"""What this version can not do: fields whose value would change the answer if it were ignored.

Knows: names and harmless values. Does not know: anything that is supported.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from diptych.server.errors import Unsupported
from diptych.server.openai.bodies import ChatCompletionRequest, CompletionRequest, GenerationBody

log = logging.getLogger(__name__)

Harmless = Callable[[object], bool]

_FALSY: Harmless = lambda value: not value  # noqa: E731 - a table of one-liners reads better


_EXTRAS: dict[str, Harmless] = {
    "allowed_token_ids": _FALSY,
    "audio": _FALSY,
    "bad_words": _FALSY,
    "chat_template": _FALSY,
    "echo": _FALSY,  # of chat; completions have it
    "function_call": lambda value: value in (None, "none", "auto"),
    "functions": _FALSY,
    "guided_choice": _FALSY,
    "guided_grammar": _FALSY,
    "guided_json": _FALSY,
    "guided_regex": _FALSY,
    "kv_transfer_params": _FALSY,
    "length_penalty": lambda value: value in (None, 1),
    "modalities": lambda value: value in (None, [], ["text"]),
    "prompt_embeds": _FALSY,
    "structured_outputs": _FALSY,
    "truncate_prompt_tokens": _FALSY,
    "use_beam_search": _FALSY,
    "web_search_options": lambda value: value is None,
}
"""Field → whether a value may be ignored."""

UNSUPPORTED = frozenset(_EXTRAS) | {"tools", "tool_choice", "response_format", "suffix", "best_of"}
"""Names of all fields with a value that is refused."""


def refuse_unsupported(body: GenerationBody) -> None:
    """Raises `Unsupported` naming the first such field. Other unknown fields are logged and ignored."""
    for name, harmless in _EXTRAS.items():
        extra = body.model_extra or {}
        if name in extra and not harmless(extra[name]):
            raise Unsupported(f"{name} is not supported", name)
    match body:
        case ChatCompletionRequest():
            _refuse_of_chat(body)
        case CompletionRequest():
            _refuse_of_completion(body)
        case _:
            pass
    if unknown := sorted(set(body.model_extra or {}) - set(_EXTRAS)):
        log.debug("ignored unknown fields: %s", ", ".join(name[:64] for name in unknown[:32]))


def _refuse_of_chat(body: ChatCompletionRequest) -> None:
    if body.tools:
        raise Unsupported("tools are not supported", "tools")
    if body.tool_choice not in (None, "none", "auto"):
        raise Unsupported("tool_choice other than 'none' and 'auto' is not supported", "tool_choice")
    kind = (body.response_format or {"type": "text"}).get("type")
    if kind != "text":
        raise Unsupported(f"response_format of type {kind!r} is not supported", "response_format")
    for place, message in enumerate(body.messages):
        for part in message.content if isinstance(message.content, list) else ():
            if part.type != "text":
                where = f"messages[{place}].content"
                raise Unsupported(
                    f"content parts of type {part.type!r} are not supported, only 'text'", where
                )


def _refuse_of_completion(body: CompletionRequest) -> None:
    if body.suffix:
        raise Unsupported("suffix is not supported", "suffix")
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise Unsupported("best_of other than n is not supported", "best_of")
