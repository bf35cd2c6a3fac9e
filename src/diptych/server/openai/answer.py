"""One answer of the API: all its chunks share id, time and model; usage and timeline at its end.

Knows: envelopes, usage, frames of an event stream. Does not know: HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import msgspec
import orjson

from diptych.domain.report import Moment
from diptych.server.call import Call
from diptych.server.choice import Choice, Piece
from diptych.server.errors import RequestFailed
from diptych.server.model import ServedModel
from diptych.server.observe import Timeline, timeline_of
from diptych.server.openai.dialect import Dialect, Json
from diptych.server.wall import wall_s

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

Events = list[tuple[Choice, Piece | None]]


class Answer:
    """Turns what a call yields into JSON of a dialect."""

    def __init__(self, call: Call, dialect: Dialect, model: ServedModel) -> None:
        self._call = call
        self._dialect = dialect
        self._model = model
        self._created_s = wall_s()
        self._begun: set[int] = set()

    # ------------------------------------------------------------ unary

    async def whole(self) -> Json:
        """Wait for all choices. Raises `RequestFailed` if one ends without an answer."""
        pieces = [Piece() for _ in self._call.choices]
        while events := await self._call.next():
            for choice, piece in events:
                if piece is not None:
                    pieces[choice.index].add(piece)
                if choice.ended:
                    pieces[choice.index].add(choice.end())
        choices = self._call.choices
        return {
            **self._envelope(self._dialect.unary_object),
            "choices": [self._dialect.whole(choice, pieces[choice.index]) for choice in choices],
            "usage": usage_of(self._call),
            **self._dialect.extras(choices[0]),
            **self._metrics(),
        }

    # ------------------------------------------------------------ stream

    async def first_events(self, keep_alive_s: float) -> Events | None:
        """What opens the stream: the first events that have something to send; None if none came in time.

        Raises `RequestFailed` while there still is an HTTP status to say it with.
        """
        while (events := await self._call.next(keep_alive_s)) is not None:
            if any(piece is not None or choice.ended for choice, piece in events):
                return events
        return None

    async def frames(self, events: Events | None, keep_alive_s: float) -> AsyncIterator[bytes]:
        """The stream, beginning with ``events``. A failure is its last frame, with no `[DONE]` after it."""
        try:
            while events is None or events:
                yield KEEP_ALIVE if events is None else b"".join(self._frames_of(events))
                events = await self._call.next(keep_alive_s)
        except RequestFailed as error:
            yield frame(error.failure.body())
            return
        yield self._tail() + DONE

    def _frames_of(self, events: Events) -> Iterable[bytes]:
        for choice, piece in events:
            if piece is not None:
                yield self._frame(choice, piece, last=False)
            if choice.ended:
                yield self._frame(choice, choice.end(), last=True)

    def _frame(self, choice: Choice, piece: Piece, *, last: bool) -> bytes:
        first = choice.index not in self._begun
        self._begun.add(choice.index)
        shown = self._dialect.chunk(choice, piece, first=first, last=last)
        chunk = {**self._envelope(self._dialect.chunk_object), "choices": [shown]}
        if self._call.ask.include_usage:
            chunk["usage"] = None
        if first and choice.index == 0:
            chunk |= self._dialect.extras(choice)
        return frame(chunk)

    def _tail(self) -> bytes:
        """One last chunk without choices, if usage or metrics are wanted."""
        wanted = {"usage": usage_of(self._call)} if self._call.ask.include_usage else {}
        wanted |= self._metrics()
        if not wanted:
            return b""
        return frame({**self._envelope(self._dialect.chunk_object), "choices": [], **wanted})

    # ------------------------------------------------------------ both

    def timelines(self) -> list[Timeline]:
        """Durations of each choice, as far as they are known while the answer is being written."""
        ended = [choice for choice in self._call.choices if choice.report is not None]
        return [timeline_of(choice.report, len(choice.token_ids)) for choice in ended if choice.report]

    def _metrics(self) -> Json:
        if not self._call.ask.include_metrics:
            return {}
        return {"metrics": {"choices": [_shown_timeline(choice) for choice in self._call.choices]}}

    def _envelope(self, kind: str) -> Json:
        return {
            "id": self._call.call_id,
            "object": kind,
            "created": self._created_s,
            "model": self._call.ask.model_name,
            "system_fingerprint": self._model.fingerprint,
        }


def usage_of(call: Call) -> Json:
    """Tokens of a call. A prompt counts once however many choices it has; cached is what each choice found,
    so that what one choice computed for the next (a matter of timing) is not counted. Every token up to the
    end counts as output, an EOS too."""
    n = call.ask.n
    prompt = sum(len(prompt.token_ids) for prompt in call.ask.prompts)
    output = sum(len(choice.token_ids) for choice in call.choices)
    found = [choice.report.cached_tokens if choice.report else 0 for choice in call.choices]
    cached = sum(min(found[first : first + n]) for first in range(0, len(found), n))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def frame(data: object) -> bytes:
    """One event of an event stream."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


def _shown_timeline(choice: Choice) -> dict[str, Any]:
    if choice.report is None:
        return {"index": choice.index}
    report = choice.report
    placement = report.placements[-1] if report.placements else None
    return {
        "index": choice.index,
        **msgspec.to_builtins(timeline_of(report, len(choice.token_ids))),
        "received_to_moment_s": _since_received(report.moments),
        "prefill_worker": placement.prefill_worker if placement else None,
        "decode_worker": placement.decode_worker if placement else None,
        "attempts": len(report.placements),
        "cached_tokens": report.cached_tokens,
        "handoff": msgspec.to_builtins(report.handoff),
    }


def _since_received(moments: dict[Moment, float]) -> dict[str, float]:
    start_s = moments.get(Moment.RECEIVED)
    return {} if start_s is None else {moment.value: at_s - start_s for moment, at_s in moments.items()}
