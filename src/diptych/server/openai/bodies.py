"""Bodies of requests, as OpenAI defines them, with the extras of vLLM and SGLang under their names.

Knows: names, types and ranges of fields. Does not know: the model (what depends on it is checked in `ask`).

Types are strict: the string "1" is no number. Unknown fields are kept aside, not refused. ``null`` always
means "not given".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

MAX_LOGPROBS = 20
MAX_CHOICES = 128

Names: TypeAlias = Annotated[list[str], Field(fail_fast=True)]
TokenIds: TypeAlias = Annotated[list[int], Field(fail_fast=True)]
Prompt: TypeAlias = str | Names | TokenIds | Annotated[list[TokenIds], Field(fail_fast=True)]
LogprobCount: TypeAlias = Annotated[int, Field(ge=0, le=MAX_LOGPROBS)]


class Part(BaseModel):
    """Base of everything in a body."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, frozen=True)


class StreamOptions(Part):
    """What a stream carries beside its text."""

    include_usage: bool | None = Field(default=None, description="One last chunk with the usage.")
    include_metrics: bool | None = Field(default=None, description="One last chunk with the timeline.")


class GenerationBody(Part):
    """Fields that both kinds of completion share."""

    model: str | None = Field(default=None, max_length=512)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, description="0 and -1 are off.")
    min_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    stop: str | Names | None = None
    stop_token_ids: TokenIds | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = Field(default=None, ge=0)
    skip_special_tokens: bool | None = None
    prompt_logprobs: LogprobCount | None = None
    return_token_ids: bool | None = None
    include_metrics: bool | None = None
    priority: int | None = Field(default=None, ge=-(2**31), le=2**31 - 1, description="Lower runs sooner.")
    request_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.:\-]{1,128}$")
    cache_salt: str | None = Field(
        default=None, min_length=1, max_length=512, description="Only requests with the same salt share KV."
    )
    user: str | None = None


class TextPart(Part):
    """A piece of a message. Only text is supported; other kinds are refused by name."""

    type: str
    text: str | None = None


class ChatMessage(Part):
    """One message. Fields that are not listed reach the chat template as they are."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None


class ChatCompletionRequest(GenerationBody):
    """`POST /v1/chat/completions`"""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: LogprobCount | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = Field(default=None, description="Handed to the chat template.")
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None


class CompletionRequest(GenerationBody):
    """`POST /v1/completions`"""

    prompt: Prompt
    echo: bool | None = None
    logprobs: LogprobCount | None = None
    best_of: int | None = Field(default=None, ge=1)
    suffix: str | None = None
    add_special_tokens: bool | None = None
