"""A cluster for the server's tests: it plays scripted tokens and can be held at any of them.

Knows: the front end's protocol. Does not know: HTTP, text. Its clock advances by one millisecond at each
look, so that durations are positive and repeatable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from diptych.domain.ids import RequestId, WorkerId
from diptych.domain.lifecycle import State
from diptych.domain.report import HandoffKind, HandoffReport, Moment, Placement, RequestReport
from diptych.domain.request import FinishReason, Logprob, PromptLogprobs, Request, TokenOut
from diptych.domain.worker import Role, WorkerStats
from diptych.metrics.snapshot import ClusterSnapshot, WorkerSnapshot
from diptych.runtime.streams import RequestStream

Script = Callable[[Request], Sequence[int]]


def fake_logprob(token_id: int, count: int) -> Logprob:
    """A made-up entry: the token itself is the likeliest, its neighbours follow."""
    top = tuple((token_id + place, -0.5 - place) for place in range(count))
    return Logprob(token_id=token_id, logprob=-0.5, top=top)


class FakeFrontend:
    """Plays ``script(request)`` token by token, one batch each (``batch`` tokens together).

    ``hold_at`` (token index → event) stops before that token until the event is set. ``fail_at`` ends the
    request with a report at that token. After a stop or an abort the report follows at once.
    """

    def __init__(self, script: Script, *, batch: int = 1) -> None:
        self.script = script
        self.batch = batch
        self.hold_at: dict[int, asyncio.Event] = {}
        self.fail_at: dict[int, Callable[[RequestId], RequestReport]] = {}
        self.is_ready = True
        self.turns = 1
        """Turns of the event loop between two batches: with many, no two share a chunk."""
        self.cached_tokens = 0
        self.cached_tokens_of: Callable[[Request], int] = lambda _: self.cached_tokens
        self.requests: list[Request] = []
        self.stopped: list[RequestId] = []
        self.aborted: list[RequestId] = []
        self.submitted = asyncio.Event()
        self.reached: dict[int, asyncio.Event] = {}
        self._live: dict[RequestId, tuple[Request, RequestStream, asyncio.Task[None]]] = {}
        self._now_s = 100.0
        self._seen: set[RequestId] = set()

    # ------------------------------------------------------------ Frontend

    def now_s(self) -> float:
        self._now_s += 0.001
        return self._now_s

    def submit(self, request: Request, received_s: float) -> RequestStream:
        assert request.request_id not in self._seen, "request ids are unique"
        self._seen.add(request.request_id)
        self.requests.append(request)
        stream = RequestStream(request.request_id)
        task = asyncio.create_task(self._play(request, stream, received_s))
        self._live[request.request_id] = (request, stream, task)
        self.submitted.set()
        return stream

    def stop(self, request_id: RequestId) -> None:
        self.stopped.append(request_id)
        self._cut(request_id, State.FINISHED, FinishReason.STOP)

    def abort(self, request_id: RequestId) -> None:
        if request_id in self._live:
            self.aborted.append(request_id)
            self._cut(request_id, State.ABORTED, None)

    def ready(self) -> bool:
        return self.is_ready

    def snapshot(self) -> ClusterSnapshot:
        stats = WorkerStats(running=len(self._live), held_blocks=3, cached_blocks=2, free_blocks=5)
        worker = WorkerSnapshot(
            worker_id=WorkerId("mixed-0"),
            pool="mixed",
            role=Role.MIXED,
            incarnation=1,
            up=True,
            arena_blocks=10,
            block_tokens=4,
            stats=stats,
        )
        return ClusterSnapshot(workers=(worker,), running_requests=len(self._live))

    # ------------------------------------------------------------ for tests

    @property
    def live(self) -> list[RequestId]:
        """Requests without a report."""
        return list(self._live)

    def reach(self, index: int) -> asyncio.Event:
        """Set when a request is about to play its token ``index``."""
        return self.reached.setdefault(index, asyncio.Event())

    # ------------------------------------------------------------ playing

    async def _play(self, request: Request, stream: RequestStream, received_s: float) -> None:
        started_s = self.now_s()
        tokens = self._tokens(request)
        self._push_prompt(request, stream)
        for start in range(0, len(tokens), self.batch):
            self.reach(start).set()
            if (event := self.hold_at.get(start)) is not None:
                await event.wait()
            if (failure := self.fail_at.get(start)) is not None:
                self._end(request.request_id, failure(request.request_id))
                return
            stream.push(tokens[start : start + self.batch])
            for _ in range(self.turns):
                await asyncio.sleep(0)
        reason = tokens[-1].finish_reason
        report = self._report(request, State.FINISHED, reason, received_s, started_s)
        self._end(request.request_id, report)

    def _tokens(self, request: Request) -> list[TokenOut]:
        sampling = request.sampling
        found: list[TokenOut] = []
        for index, token_id in enumerate(self.script(request)[: sampling.max_tokens]):
            stops = token_id in sampling.stop_token_ids and index >= sampling.min_tokens
            full = index + 1 == sampling.max_tokens
            logprob = None if sampling.logprobs is None else fake_logprob(token_id, sampling.logprobs)
            reason = FinishReason.STOP if stops else FinishReason.LENGTH if full else None
            found.append(
                TokenOut(
                    request_id=request.request_id,
                    attempt=0,
                    index=index,
                    token_id=token_id,
                    logprob=logprob,
                    finish_reason=reason,
                    stop_token_id=token_id if stops else None,
                )
            )
            if reason is not None:
                return found
        raise AssertionError("the script must be as long as max_tokens or end with a stop token")

    def _push_prompt(self, request: Request, stream: RequestStream) -> None:
        count = request.sampling.prompt_logprobs
        if count is None or len(request.prompt_token_ids) < 2:
            return
        entries = tuple(fake_logprob(token_id, count) for token_id in request.prompt_token_ids[1:])
        half = len(entries) // 2
        for start, part in ((1, entries[:half]), (1 + half, entries[half:])):
            item = PromptLogprobs(request_id=request.request_id, attempt=0, start=start, entries=part)
            stream.push([item])

    def _cut(self, request_id: RequestId, state: State, reason: FinishReason | None) -> None:
        if request_id not in self._live:
            return
        request, _, task = self._live[request_id]
        task.cancel()
        self._end(request_id, self._report(request, state, reason, self._now_s, self._now_s))

    def _end(self, request_id: RequestId, report: RequestReport) -> None:
        _, stream, _ = self._live.pop(request_id)
        stream.push([report])

    def _report(
        self,
        request: Request,
        state: State,
        reason: FinishReason | None,
        received_s: float,
        started_s: float,
    ) -> RequestReport:
        placement = Placement(
            attempt=0, prefill_worker=WorkerId("prefill-0"), decode_worker=WorkerId("decode-0")
        )
        return RequestReport(
            request_id=request.request_id,
            state=state,
            finish_reason=reason,
            prompt_tokens=len(request.prompt_token_ids),
            cached_tokens=min(self.cached_tokens_of(request), len(request.prompt_token_ids) - 1),
            moments={
                Moment.RECEIVED: received_s,
                Moment.PREFILL_STARTED: started_s,
                Moment.FIRST_TOKEN: started_s + 0.0002,
                Moment.DECODE_STARTED: started_s + 0.0003,
                Moment.LAST_TOKEN: started_s + 0.0005,
            },
            placements=(placement,),
            handoff=HandoffReport(
                kind=HandoffKind.BORROW, blocks=2, bytes_lent=64, bytes_copied=8, handoff_s=0.001
            ),
        )


def rejected(request_id: RequestId) -> RequestReport:
    """Refused for load."""
    return RequestReport(
        request_id=request_id,
        state=State.REJECTED,
        error_code="server_overloaded",
        error_message="1024 requests wait already.",
        retry_after_s=2.5,
    )


def failed(request_id: RequestId) -> RequestReport:
    """Its workers are gone."""
    return RequestReport(
        request_id=request_id,
        state=State.FAILED,
        error_code="worker_lost",
        error_message="Workers were lost 5 times.",
    )
