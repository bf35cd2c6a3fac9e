"""From a body to what is asked of the cluster: prompts as tokens, sampling parameters, wishes for the output.

Knows: defaults, and every check that needs the model. Does not know: HTTP, streams.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from diptych.domain.errors import ContextTooLong, InvalidRequest
from diptych.domain.ids import TokenId
from diptych.domain.request import SamplingParams
from diptych.server.config import ServerConfig
from diptych.server.model import ServedModel
from diptych.server.openai.bodies import (
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    GenerationBody,
    Prompt,
)
from diptych.server.text.chat_template import Message

_COMPLETION_MAX_TOKENS = 16
"""OpenAI's default of `/v1/completions`."""
_LONG_TEXT_CHARACTERS = 16_384
"""A text from here on is tokenised beside the event loop."""
_MANY_MESSAGES = 256
"""So many messages and more are rendered beside it."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class PromptTokens:
    """One prompt. ``text`` is what the client wrote, if it was text."""

    token_ids: tuple[TokenId, ...]
    text: str | None


@dataclass(frozen=True, kw_only=True)
class OutputWishes:
    """How tokens become the answer."""

    stops: tuple[str, ...] = ()
    include_stop: bool = False
    min_tokens: int = 0
    skip_special_tokens: bool = True
    listed_stop_ids: frozenset[TokenId] = frozenset()
    """Stop tokens that the client named: these are its `stop_reason`, an EOS is not."""
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    echo: bool = False
    return_token_ids: bool = False


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One call: ``len(prompts) * n`` sequences. ``sampling`` has the seed of the first choice."""

    model_name: str
    prompts: tuple[PromptTokens, ...]
    n: int
    samplings: tuple[SamplingParams, ...]
    """One for each prompt: the default of `max_tokens` depends on it."""
    output: OutputWishes
    stream: bool
    include_usage: bool
    include_metrics: bool
    priority: int
    cache_salt: str | None
    request_id: str | None


async def ask_of_chat(body: ChatCompletionRequest, model: ServedModel, config: ServerConfig) -> Ask:
    """Render, tokenise and check. Raises `ClientError`."""
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs to be true", "top_logprobs")
    prompt = await _chat_prompt(body, model)
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    wanted = body.max_completion_tokens or body.max_tokens
    return _ask(body, model, config, (prompt,), wanted, None, logprobs, echo=False)


async def ask_of_completion(body: CompletionRequest, model: ServedModel, config: ServerConfig) -> Ask:
    """Tokenise and check. Raises `ClientError`."""
    prompts = await _completion_prompts(body, model, config)
    echo = bool(body.echo)
    return _ask(
        body, model, config, prompts, body.max_tokens, _COMPLETION_MAX_TOKENS, body.logprobs, echo=echo
    )


def _ask(
    body: GenerationBody,
    model: ServedModel,
    config: ServerConfig,
    prompts: tuple[PromptTokens, ...],
    max_tokens: int | None,
    default_max_tokens: int | None,
    logprobs: int | None,
    *,
    echo: bool,
) -> Ask:
    n = body.n or 1
    if n * len(prompts) > config.max_sequences:
        raise InvalidRequest(f"prompts times n may be at most {config.max_sequences}", "n")
    if body.stream and body.prompt_logprobs is not None:
        raise InvalidRequest("prompt_logprobs can not be streamed", "prompt_logprobs")
    output = _output_wishes(body, config, model, logprobs, echo=echo)
    seed = secrets.randbits(63) if body.seed is None else body.seed % 2**63
    limits = [_max_tokens(len(p.token_ids), max_tokens, default_max_tokens, model) for p in prompts]
    options = body.stream_options
    return Ask(
        model_name=body.model or model.name,
        prompts=prompts,
        n=n,
        samplings=tuple(_sampling(body, model, output, seed, limit) for limit in limits),
        output=output,
        stream=bool(body.stream),
        include_usage=config.force_include_usage or bool(options and options.include_usage),
        include_metrics=bool(body.include_metrics or (options and options.include_metrics)),
        priority=body.priority or 0,
        cache_salt=body.cache_salt,
        request_id=body.request_id,
    )


# ---------------------------------------------------------------- prompts


async def _chat_prompt(body: ChatCompletionRequest, model: ServedModel) -> PromptTokens:
    render = partial(_render, body, model)
    text = render() if len(body.messages) < _MANY_MESSAGES else await asyncio.to_thread(render)
    token_ids = await _encode(text, model, "messages", special=False)
    if not token_ids:
        raise InvalidRequest("the messages render to an empty prompt", "messages")
    return PromptTokens(token_ids=token_ids, text=text)


def _render(body: ChatCompletionRequest, model: ServedModel) -> str:
    if model.chat_template is None:
        raise InvalidRequest(f"{model.name!r} has no chat template: use /v1/completions", "messages")
    keep_open = bool(body.continue_final_message)
    add_prompt = not keep_open if body.add_generation_prompt is None else body.add_generation_prompt
    if keep_open and add_prompt:
        raise InvalidRequest(
            "continue_final_message and add_generation_prompt exclude each other", "continue_final_message"
        )
    effort = {} if body.reasoning_effort is None else {"reasoning_effort": body.reasoning_effort}
    return model.chat_template.render(
        [_message(message) for message in body.messages],
        add_generation_prompt=add_prompt,
        continue_final_message=keep_open,
        extra={**effort, **(body.chat_template_kwargs or {})},
    )


def _message(message: ChatMessage) -> Message:
    """Content as plain text; parts are joined by line breaks."""
    content = message.content
    if isinstance(content, list):
        content = "\n".join(part.text or "" for part in content)
    return {**(message.model_extra or {}), "role": message.role, "content": content or ""}


async def _completion_prompts(
    body: CompletionRequest, model: ServedModel, config: ServerConfig
) -> tuple[PromptTokens, ...]:
    special = body.add_special_tokens is not False
    prompts = _separate(body.prompt)
    if len(prompts) > config.max_sequences:
        raise InvalidRequest(f"prompt may hold at most {config.max_sequences} prompts", "prompt")
    found = [await _one_prompt(prompt, model, special=special) for prompt in prompts]
    if not found or any(not prompt.token_ids for prompt in found):
        raise InvalidRequest("prompt is empty", "prompt")
    return tuple(found)


def _separate(prompt: Prompt) -> list[str | list[int]]:
    """The four forms of `prompt` as a list of prompts."""
    if isinstance(prompt, str):
        return [prompt]
    ids = [item for item in prompt if isinstance(item, int)]
    if ids:
        return [ids]
    return [item for item in prompt if not isinstance(item, int)]


async def _one_prompt(prompt: str | list[int], model: ServedModel, *, special: bool) -> PromptTokens:
    if isinstance(prompt, str):
        ids = await _encode(prompt, model, "prompt", special=special)
        return PromptTokens(token_ids=ids, text=prompt)
    if prompt and not 0 <= min(prompt) <= max(prompt) < model.vocab_size:
        raise InvalidRequest(f"prompt has token ids outside of 0..{model.vocab_size - 1}", "prompt")
    return PromptTokens(token_ids=tuple(prompt), text=None)


async def _encode(text: str, model: ServedModel, param: str, *, special: bool) -> tuple[TokenId, ...]:
    """Token ids. A long text is tokenised in a thread, so that other streams go on meanwhile, and not at all
    if it cannot fit however well it packs."""
    tokenizer = model.tokenizer
    if tokenizer.most_characters and len(text) > model.max_model_tokens * tokenizer.most_characters:
        least = -(-len(text) // tokenizer.most_characters)
        raise ContextTooLong(
            f"the model's context holds {model.max_model_tokens} tokens, but the prompt has {len(text)} "
            f"characters, which are {least} tokens at the least"
        )
    work = partial(tokenizer.encode, text, add_special_tokens=special)
    ids = work() if len(text) < _LONG_TEXT_CHARACTERS else await asyncio.to_thread(work)
    if tokenizer.vocab_size > model.vocab_size and max(ids, default=0) >= model.vocab_size:
        raise InvalidRequest(f"the text has a token that the model does not know: {max(ids)}", param)
    return tuple(ids)


def _max_tokens(prompt_tokens: int, wanted: int | None, default: int | None, model: ServedModel) -> int:
    """What is asked for; else the default (None: all that is left), cut to what is left."""
    most = model.max_model_tokens
    if prompt_tokens + (wanted or 1) > most:
        output = "" if wanted is None else f" and max_tokens asks for {wanted} more"
        raise ContextTooLong(
            f"the model's context holds {most} tokens, but the prompt has {prompt_tokens}{output}",
            "max_tokens" if prompt_tokens < most else None,
        )
    room = most - prompt_tokens
    return wanted or min(default or room, room)


# ---------------------------------------------------------------- sampling and output


def _sampling(
    body: GenerationBody, model: ServedModel, output: OutputWishes, seed: int, max_tokens: int
) -> SamplingParams:
    if output.min_tokens > max_tokens:
        raise InvalidRequest(f"min_tokens is more than max_tokens ({max_tokens})", "min_tokens")
    defaults = model.defaults
    eos = () if body.ignore_eos else model.eos_token_ids
    return SamplingParams(
        max_tokens=max_tokens,
        seed=seed,
        temperature=_first(body.temperature, defaults.temperature, 1.0),
        top_k=max(0, _first(body.top_k, defaults.top_k, 0)),
        top_p=_first(body.top_p, defaults.top_p, 1.0),
        min_p=_first(body.min_p, defaults.min_p, 0.0),
        presence_penalty=_first(body.presence_penalty, 0.0),
        frequency_penalty=_first(body.frequency_penalty, 0.0),
        repetition_penalty=_first(body.repetition_penalty, defaults.repetition_penalty, 1.0),
        logit_bias=_logit_bias(body.logit_bias or {}, model),
        min_tokens=output.min_tokens,
        stop_token_ids=tuple(sorted({*eos, *output.listed_stop_ids})),
        logprobs=output.logprobs,
        prompt_logprobs=_prompt_logprobs(output),
    )


def _prompt_logprobs(output: OutputWishes) -> int | None:
    """As many as `prompt_logprobs` and an echo with `logprobs` need."""
    echoed = output.logprobs if output.echo else None
    wanted = [count for count in (output.prompt_logprobs, echoed) if count is not None]
    return max(wanted, default=None)


def _output_wishes(
    body: GenerationBody, config: ServerConfig, model: ServedModel, logprobs: int | None, *, echo: bool
) -> OutputWishes:
    listed = body.stop_token_ids or []
    if any(not 0 <= token_id < model.vocab_size for token_id in listed):
        raise InvalidRequest(f"stop_token_ids has ids outside of 0..{model.vocab_size - 1}", "stop_token_ids")
    return OutputWishes(
        stops=_stops(body.stop, config.max_stops),
        include_stop=bool(body.include_stop_str_in_output),
        min_tokens=body.min_tokens or 0,
        skip_special_tokens=body.skip_special_tokens is not False,
        listed_stop_ids=frozenset(listed),
        logprobs=logprobs,
        prompt_logprobs=body.prompt_logprobs,
        echo=echo,
        return_token_ids=bool(body.return_token_ids),
    )


def _stops(stop: str | list[str] | None, most: int) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if len(stops) > most:
        raise InvalidRequest(f"stop may hold at most {most} strings", "stop")
    if any(not text for text in stops):
        raise InvalidRequest("a stop string may not be empty", "stop")
    return tuple(stops)


def _logit_bias(wanted: dict[str, float], model: ServedModel) -> tuple[tuple[TokenId, float], ...]:
    found: dict[TokenId, float] = {}
    for spelled, bias in wanted.items():
        if not (re.fullmatch("[0-9]{1,10}", spelled) and int(spelled) < model.vocab_size):
            raise InvalidRequest(
                f"logit_bias needs token ids in 0..{model.vocab_size - 1}, not {spelled[:32]!r}", "logit_bias"
            )
        found[int(spelled)] = bias
    return tuple(sorted(found.items()))


def _first(*values: T | None) -> T:
    """The first that is given; the last always is."""
    return next(value for value in values if value is not None)
