"""A model's chat template: messages in, prompt text out.

Knows: jinja2 in its sandbox and the conventions that templates on the Hugging Face hub rely on. Does not
know: tokens, HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from diptych.domain.errors import InvalidRequest, SpecError
from diptych.server.wall import local_time

Message = dict[str, Any]
"""One message as the template sees it: ``role``, ``content`` (text) and whatever else the client sent."""

_MARK = "\u2063diptych-continue\u2063"
"""Stands behind the last message while it is rendered, so that the cut falls right there."""


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's words for training; in serving it is its content."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Drop the tags, keep what they enclose."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """One compiled template. Raises `SpecError` if its source is not valid."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self._special_tokens = dict(special_tokens)
        self._knows_developer = "developer" in source
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = local_time
        try:
            self._template = environment.from_string(source)
        except TemplateSyntaxError as error:
            raise SpecError(f"the chat template is not valid: {error}") from None

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        extra: Mapping[str, object] | None = None,
    ) -> str:
        """The prompt text. ``extra`` are variables for the template (`chat_template_kwargs`).

        With ``continue_final_message`` the text ends with the last message's content, open for more. Raises
        `InvalidRequest` if the template refuses the messages.
        """
        shown = [self._known_role(message) for message in messages]
        if continue_final_message:
            shown[-1] = {**shown[-1], "content": f"{shown[-1]['content']}{_MARK}"}
        text = self._render(shown, add_generation_prompt, extra or {})
        return _cut_at_mark(text) if continue_final_message else text

    def _render(self, messages: list[Message], add_prompt: bool, extra: Mapping[str, object]) -> str:
        variables = {**self._special_tokens, "tools": None, "documents": None, **extra}
        variables |= {"messages": messages, "add_generation_prompt": add_prompt}
        try:
            return self._template.render(variables)
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, RecursionError) as error:
            # Besides its own errors a template raises those of the expressions in it.
            raise InvalidRequest(
                f"the model's chat template refuses these messages: {error}", "messages"
            ) from None

    def _known_role(self, message: Message) -> Message:
        """OpenAI's newer word for system, where the template has only the older one."""
        if message.get("role") == "developer" and not self._knows_developer:
            return {**message, "role": "system"}
        return message


def _cut_at_mark(text: str) -> str:
    place = text.rfind(_MARK)
    if place < 0:
        raise InvalidRequest("the chat template does not show the last message", "continue_final_message")
    return text[:place]


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: jinja2's own filter escapes for HTML, which no prompt wants."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
