"""Bodies of requests, as OpenAI defines them, with the extras of vLLM and SGLang under their names.

Knows: names, types and ranges of fields. Does not know: the model (what depends on it is checked in `ask`).

Types are strict: the string "1" is no number. Unknown fields are kept aside, not refused. ``null`` always
means "not given".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue

MAX_LOGPROBS = 20
MAX_CHOICES = 128
MAX_MESSAGES = 16_384
"""More than any context holds; without a bound, checking them would hold up every other stream."""

Names: TypeAlias = Annotated[list[str], Field(fail_fast=True)]
TokenIds: TypeAlias = Annotated[list[int], Field(fail_fast=True)]
Prompt: TypeAlias = str | Names | TokenIds | Annotated[list[TokenIds], Field(fail_fast=True)]
LogprobCount: TypeAlias = Annotated[int, Field(ge=0, le=MAX_LOGPROBS)]


class Part(BaseModel):
    """Base of everything in a body."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, frozen=True)


def shown_default(value: JsonValue) -> dict[str, JsonValue]:
    """What the schema calls the default: `None` only says "not given" here, which tells a reader nothing."""
    return {"default": value}


class StreamOptions(Part):
    """What a stream carries beside its text."""

    include_usage: bool | None = Field(
        default=None, json_schema_extra=shown_default(False), description="One last chunk with the usage."
    )
    include_metrics: bool | None = Field(
        default=None, json_schema_extra=shown_default(False), description="One last chunk with the timeline."
    )


class GenerationBody(Part):
    """Fields that both kinds of completion share."""

    model: str | None = Field(
        default=None, max_length=512, description="A name that GET /v1/models lists; default: the first."
    )
    stream: bool | None = Field(
        default=None, json_schema_extra=shown_default(False), description="Answer with server-sent events."
    )
    stream_options: StreamOptions | None = Field(default=None, description="What comes at its end.")
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Longest output. Default: all that the context has left for chat, 16 for completions.",
    )
    n: int | None = Field(
        default=None, ge=1, le=MAX_CHOICES, json_schema_extra=shown_default(1), description="Answers to give."
    )
    temperature: float | None = Field(
        default=None, ge=0, le=2, description="0 is greedy. Default: the model's own, else 1."
    )
    top_p: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Sample from the fewest tokens with this probability. Default: the model's own, else 1.",
    )
    top_k: int | None = Field(
        default=None,
        ge=-1,
        description="Sample from so many tokens; 0 and -1 are off. Default: the model's own, else 0.",
    )
    min_p: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Least probability, as a part of the best token's. Default: the model's own, else 0.",
    )
    presence_penalty: float | None = Field(
        default=None,
        ge=-2,
        le=2,
        json_schema_extra=shown_default(0),
        description="Taken from the logits of tokens that the output has.",
    )
    frequency_penalty: float | None = Field(
        default=None,
        ge=-2,
        le=2,
        json_schema_extra=shown_default(0),
        description="Taken from the logits of tokens of the output, once for each time.",
    )
    repetition_penalty: float | None = Field(
        default=None,
        gt=0,
        le=10,
        description="Above 1, what has been said gets less likely. Default: the model's own, else 1.",
    )
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        default=None, description="Token id → what is added to its logit."
    )
    seed: int | None = Field(
        default=None,
        ge=-(2**63),
        le=2**63 - 1,
        description="Equal seeds give equal answers. Default: another one each time.",
    )
    stop: str | Names | None = Field(default=None, description="Text that ends the output, or several.")
    stop_token_ids: TokenIds | None = Field(default=None, description="Tokens that end the output.")
    include_stop_str_in_output: bool | None = Field(
        default=None, json_schema_extra=shown_default(False), description="Show what ended the output."
    )
    ignore_eos: bool | None = Field(
        default=None, json_schema_extra=shown_default(False), description="Go on after the model's own end."
    )
    min_tokens: int | None = Field(
        default=None, ge=0, json_schema_extra=shown_default(0), description="Nothing ends the output before."
    )
    skip_special_tokens: bool | None = Field(
        default=None, json_schema_extra=shown_default(True), description="Leave them out of the text."
    )
    prompt_logprobs: LogprobCount | None = Field(
        default=None, description="So many alternatives for each token of the prompt. Not while streaming."
    )
    return_token_ids: bool | None = Field(
        default=None, json_schema_extra=shown_default(False), description="Token ids beside the text."
    )
    include_metrics: bool | None = Field(
        default=None, json_schema_extra=shown_default(False), description="The timeline, with the answer."
    )
    priority: int | None = Field(
        default=None,
        ge=-(2**31),
        le=2**31 - 1,
        json_schema_extra=shown_default(0),
        description="Lower runs sooner.",
    )
    request_id: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_.:\-]{1,128}$",
        description="Becomes part of the answer's id, by which GET /requests/{name} finds it.",
    )
    cache_salt: str | None = Field(
        default=None, min_length=1, max_length=512, description="Only requests with the same salt share KV."
    )
    user: str | None = Field(default=None, description="Taken and not used.")


class TextPart(Part):
    """A piece of a message. Only text is supported; other kinds are refused by name."""

    type: str = Field(description="'text'.")
    text: str | None = Field(default=None, description="What is said.")


class ChatMessage(Part):
    """One message. Fields that are not listed reach the chat template as they are."""

    role: Literal["system", "developer", "user", "assistant", "tool"] = Field(description="Who says it.")
    content: str | Annotated[list[TextPart], Field(max_length=MAX_MESSAGES)] | None = Field(
        default=None, description="What is said."
    )


class ChatCompletionRequest(GenerationBody):
    """`POST /v1/chat/completions`"""

    messages: list[ChatMessage] = Field(
        min_length=1, max_length=MAX_MESSAGES, description="The conversation so far."
    )
    max_completion_tokens: int | None = Field(
        default=None, ge=1, description="The newer name of max_tokens; counts if both are given."
    )
    logprobs: bool | None = Field(
        default=None, json_schema_extra=shown_default(False), description="Log-probabilities of the output."
    )
    top_logprobs: LogprobCount | None = Field(
        default=None, json_schema_extra=shown_default(0), description="So many alternatives for each token."
    )
    add_generation_prompt: bool | None = Field(
        default=None, json_schema_extra=shown_default(True), description="Begin the assistant's turn."
    )
    continue_final_message: bool | None = Field(
        default=None, json_schema_extra=shown_default(False), description="Go on with the last message."
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, description="Further variables of the chat template."
    )
    reasoning_effort: str | None = Field(default=None, description="Handed to the chat template.")
    tools: list[Any] | None = Field(default=None, description="Not supported, unless empty.")
    tool_choice: str | dict[str, Any] | None = Field(
        default=None, description="Not supported, but for 'none' and 'auto'."
    )
    response_format: dict[str, Any] | None = Field(
        default=None, description="Not supported, but for the type 'text'."
    )


class CompletionRequest(GenerationBody):
    """`POST /v1/completions`"""

    prompt: Prompt = Field(description="Text or token ids; one prompt or several.")
    echo: bool | None = Field(
        default=None, json_schema_extra=shown_default(False), description="The prompt in front of the output."
    )
    logprobs: LogprobCount | None = Field(
        default=None, description="Log-probabilities, with so many alternatives for each token."
    )
    best_of: int | None = Field(default=None, ge=1, description="Not supported, unless it equals n.")
    suffix: str | None = Field(default=None, description="Not supported.")
    add_special_tokens: bool | None = Field(
        default=None, json_schema_extra=shown_default(True), description="Those that the tokeniser adds."
    )
