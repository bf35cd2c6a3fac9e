"""One prompt from text to text on a running cluster, by the code that serves an API call.

Knows: the front end's own steps (render, tokenise, submit, detokenise). Does not know: HTTP, terminals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from diptych.domain.errors import ClusterError
from diptych.metrics.snapshot import ClusterSnapshot
from diptych.runtime.streams import Frontend
from diptych.server.body import parse
from diptych.server.call import Call
from diptych.server.choice import Choice
from diptych.server.config import ServerConfig
from diptych.server.errors import RequestFailed
from diptych.server.model import ServedModel
from diptych.server.observe import Observer
from diptych.server.openai.ask import Ask, ask_of_chat, ask_of_completion
from diptych.server.openai.bodies import ChatCompletionRequest, CompletionRequest

OnText = Callable[[str], None]


class GenerationFailed(ClusterError):
    """The cluster could not answer; carries what an API client would have heard."""

    code = "generation_failed"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the user asked for. None: as the model wants."""

    prompt: str
    max_tokens: int
    temperature: float | None = None
    seed: int | None = None
    raw: bool = False
    """Continue the text as it is, without a chat template."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The output, and the choice that knows its tokens and its report."""

    text: str
    choice: Choice


async def ask(wanted: Wanted, model: ServedModel, frontend: Frontend, on_text: OnText) -> Answered:
    """Run ``wanted``; ``on_text`` gets each piece of text as it comes.

    Raises `ClientError` for a prompt or parameter that cannot be served, `GenerationFailed` if it failed.
    """
    received_s = frontend.now_s()
    call = Call("generate", await as_ask(wanted, model), frontend, Observer(ClusterSnapshot, capacity=0))
    pieces: list[str] = []

    def take(text: str) -> None:
        pieces.append(text)
        on_text(text)

    try:
        call.submit(model, "", received_s)
        while came := await call.next():
            for _, piece in came:
                take(piece.text if piece is not None else "")
    except RequestFailed as failed:
        raise GenerationFailed(f"{failed.failure.message} ({failed.failure.code})") from None
    finally:
        call.close()
    (choice,) = call.choices
    take(choice.end().text)
    return Answered(text="".join(pieces), choice=choice)


async def as_ask(wanted: Wanted, model: ServedModel) -> Ask:
    """``wanted`` as an API call would say it. Raises `ClientError` if it cannot be served."""
    shared = {"max_tokens": wanted.max_tokens, "temperature": wanted.temperature, "seed": wanted.seed}
    if wanted.raw or model.chat_template is None:
        completion = parse({"prompt": wanted.prompt, **shared}, CompletionRequest)
        return await ask_of_completion(completion, model, ServerConfig())
    messages = [{"role": "user", "content": wanted.prompt}]
    chat = parse({"messages": messages, **shared}, ChatCompletionRequest)
    return await ask_of_chat(chat, model, ServerConfig())
