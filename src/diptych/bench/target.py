"""The server under load: what it says of itself, and whether it does what a benchmark needs.

Knows: `/v1/models`, `/version`, `/load`, one small request. Does not know: workloads, metrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import aiohttp

from diptych.bench.bodies import PATHS, Bodies, Endpoint, Extras
from diptych.bench.client import HttpSender
from diptych.bench.prompts import Prompts, TokenPrompts, WordPrompts, WordScale
from diptych.bench.sample import Outcome, Sample
from diptych.bench.schedule import Due
from diptych.domain.errors import DiptychError, SpecError

DEFAULT_VOCABULARY = 1000
"""Token ids that prompts are drawn from where the server does not tell its vocabulary: nearly every model has
more, and which ids they are hardly matters to its speed."""

_TRIAL_TOKENS = 32
_TRIAL_WORDS = (64, 192)


class Unusable(DiptychError):
    """The server does not answer, or not as a benchmark needs it."""

    code = "server_unusable"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server, as far as it tells."""

    url: str
    model: str
    owned_by: str | None
    max_model_tokens: int | None
    vocabulary: int
    version: object | None
    workers: list[dict[str, Any]] | None
    """Worker ids and roles, where `/load` tells."""

    def extras(self, run_id: str, *, warm_cache: bool, token_ids: bool) -> Extras:
        """What it understands beyond OpenAI's fields."""
        ours, vllm = self.owned_by == "diptych", self.owned_by == "vllm"
        salted = (ours or vllm) and not warm_cache
        return Extras(
            timeline=ours,
            running_usage=vllm,
            cache_salt=f"bench-{run_id}" if salted else None,
            token_ids=token_ids,
        )

    def as_data(self) -> dict[str, Any]:
        """For the provenance."""
        return {
            "url": self.url,
            "model": self.model,
            "owned_by": self.owned_by,
            "max_model_tokens": self.max_model_tokens,
            "version": self.version,
            "workers": self.workers,
        }


async def ask(
    sender: HttpSender, url: str, *, model: str | None, vocabulary: int | None, max_model_tokens: int | None
) -> Target:
    """What the server tells; what is given goes before what it says.

    Raises:
        Unusable: nobody answers.
        SpecError: it does not serve ``model``, or it serves none by itself and none is given.
    """
    try:
        models = await sender.get_json("/v1/models")
        version = await sender.get_json("/version")
        load = await sender.get_json("/load")
        tokenizer = None if vocabulary else await sender.get_json("/tokenizer_info")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unusable(f"{url} does not answer: {error}") from None
    found = _model(models, model)
    told = tokenizer.get("vocab_size") if isinstance(tokenizer, dict) else None
    return Target(
        url=url,
        model=str(found["id"]),
        owned_by=found.get("owned_by"),
        max_model_tokens=max_model_tokens or found.get("max_model_len"),
        vocabulary=vocabulary or (told if isinstance(told, int) else DEFAULT_VOCABULARY),
        version=version,
        workers=_workers(load),
    )


def _model(models: object, wanted: str | None) -> dict[str, Any]:
    listed = models.get("data") if isinstance(models, dict) else None
    known: list[dict[str, Any]] = [one for one in listed or () if isinstance(one, dict) and one.get("id")]
    if wanted is None:
        if not known:
            raise SpecError("/v1/models names no model (does it want an --api-key?); name one with --model")
        return known[0]
    named = [one for one in known if one["id"] == wanted]
    if known and not named:
        names = ", ".join(str(one["id"]) for one in known)
        raise SpecError(f"--model {wanted}: not served here; there are: {names}")
    return named[0] if named else {"id": wanted}


def _workers(load: object) -> list[dict[str, Any]] | None:
    workers = load.get("workers") if isinstance(load, dict) else None
    if not isinstance(workers, list):
        return None
    return [
        {key: worker.get(key) for key in ("worker_id", "role", "cores") if key in worker}
        for worker in workers
        if isinstance(worker, dict)
    ]


# ---------------------------------------------------------------- trial


@dataclass(frozen=True)
class Trial:
    """What one small request taught."""

    notes: tuple[str, ...]
    scale: WordScale


async def attempt(sender: HttpSender, target: Target, endpoint: Endpoint, run_id: str) -> Trial:
    """Send a small request, so that a wrong key or field is found before the load. Raises `Unusable`."""
    extras = target.extras(f"{run_id}-trial", warm_cache=False, token_ids=False)
    if endpoint == "chat":
        pairs = [await _count(sender, target, extras, words) for words in _TRIAL_WORDS]
        scale = WordScale.through(pairs[0], pairs[1])
        return Trial((f"chat prompts are text: {scale.per_word:.2f} tokens a word",), scale)
    prompts = TokenPrompts(target.vocabulary, _TRIAL_TOKENS, 0)
    sample = await _send(sender, target, endpoint, prompts, extras, _TRIAL_TOKENS)
    return Trial(_notes(sample), WordScale())


async def _count(sender: HttpSender, target: Target, extras: Extras, words: int) -> tuple[int, int]:
    prompts = WordPrompts(WordScale(), _TRIAL_TOKENS, words)
    sample = await _send(sender, target, "chat", prompts, extras, words)
    if sample.usage_prompt_tokens is None:
        raise Unusable("the server's streams carry no usage: nobody knows how long a chat's prompt is")
    return words, sample.usage_prompt_tokens


async def _send(
    sender: HttpSender, target: Target, endpoint: Endpoint, prompts: Prompts, extras: Extras, size: int
) -> Sample:
    due = Due(index=0, t_s=0.0, input_tokens=size, output_tokens=2, hash_ids=(), session_id=None)
    sample = Sample(index=0, input_tokens=size, output_tokens=2, due_s=0.0)
    body = Bodies(endpoint, target.model, prompts, extras).render(due)
    await sender.send(PATHS[endpoint], body, sample)
    if sample.outcome is Outcome.COMPLETED:
        return sample
    message = f"a first, small request got {sample.error_code}: {sample.error_message}"
    if "token id" in (sample.error_message or ""):
        message += f" (ids are drawn below {target.vocabulary}; --vocabulary says how many there are)"
    if sample.status in (400, 401, 403, 404):
        raise SpecError(message)
    raise Unusable(message)


def _notes(sample: Sample) -> tuple[str, ...]:
    if sample.usage_output_tokens is None:
        return ("the server's streams carry no usage: no TPOT, no token counts",)
    if sample.usage_output_tokens != sample.output_tokens:
        return ("the server does not heed max_tokens with ignore_eos: output lengths are its own",)
    return ()
