"""Requests that have not ended: what their clients have been given, and the last reports of those that have.

Knows: exactly-once delivery of tokens by index, which attempt counts. Does not know: workers' sockets,
decisions, text. Memory is flat: an ended request leaves nothing but its place in a ring of reports.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import msgspec

from diptych.domain.commands import DropWork, StartPrefill, WorkerCommand
from diptych.domain.errors import Bug
from diptych.domain.events import Streamed
from diptych.domain.ids import RequestId, TokenId
from diptych.domain.report import RequestReport
from diptych.domain.request import PromptLogprobs, TokenOut
from diptych.runtime.streams import RequestStream, StreamItem

KEPT_REPORTS = 1024
"""How many ended requests can still be asked about."""


class LiveRequest:
    """One request between arrival and report."""

    def __init__(self, request_id: RequestId) -> None:
        self.stream = RequestStream(request_id)
        self.token_ids: list[TokenId] = []
        self.attempt = 0
        """The newest attempt sent to any worker."""
        self.void_attempt = -1
        """Attempts up to this one have been called off: what they still say is not for the client."""
        self._next_prompt_position = 0

    @property
    def request_id(self) -> RequestId:
        """Whose it is."""
        return self.stream.request_id

    def streamed(self) -> Streamed:
        """What the client has been given so far."""
        return Streamed(self.request_id, tuple(self.token_ids))

    def sent(self, command: WorkerCommand) -> None:
        """Note what an order means for the attempts of this request."""
        match command:
            case StartPrefill():
                self.attempt = max(self.attempt, command.work.attempt)
            case DropWork():
                self.void_attempt = max(self.void_attempt, command.attempt)
            case _:
                pass

    def accept(self, token: TokenOut) -> bool:
        """Whether the client gets this token: the next index, of an attempt that still counts."""
        if not self._counts(token.attempt) or token.index != len(self.token_ids):
            return False
        self.token_ids.append(token.token_id)
        return True

    def accept_prompt(self, item: PromptLogprobs) -> PromptLogprobs | None:
        """The positions of ``item`` that the client has not had yet (a repeated prefill tells some again)."""
        known = max(0, self._next_prompt_position - item.start)
        if not self._counts(item.attempt) or known >= len(item.entries):
            return None
        self._next_prompt_position = item.start + len(item.entries)
        return msgspec.structs.replace(item, start=item.start + known, entries=item.entries[known:])

    def _counts(self, attempt: int) -> bool:
        return attempt == self.attempt and attempt > self.void_attempt


class LiveRequests:
    """All of them, and the ring of reports."""

    def __init__(self, kept_reports: int = KEPT_REPORTS) -> None:
        self._live: dict[RequestId, LiveRequest] = {}
        self._reports: OrderedDict[RequestId, RequestReport] = OrderedDict()
        self._kept_reports = kept_reports
        self.dropped_tokens = 0
        """Tokens that came twice or from an attempt that no longer counts."""

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._live

    def add(self, request_id: RequestId) -> LiveRequest:
        """A request begins. Raises `Bug` when its id is in use."""
        if request_id in self._live:
            raise Bug(f"request id {request_id!r} is in use")
        request = self._live[request_id] = LiveRequest(request_id)
        return request

    def get(self, request_id: RequestId) -> LiveRequest | None:
        """The request, unless it has ended."""
        return self._live.get(request_id)

    def ids(self) -> tuple[RequestId, ...]:
        """Who is live, oldest first."""
        return tuple(self._live)

    def deliver(self, tokens: Sequence[TokenOut], prompt_logprobs: Sequence[PromptLogprobs]) -> None:
        """Pass on what is new, in one batch for each stream."""
        batches: dict[RequestId, list[StreamItem]] = {}
        for item in self._new(tokens, prompt_logprobs):
            batches.setdefault(item.request_id, []).append(item)
        for request_id, items in batches.items():
            self._live[request_id].stream.push(items)

    def end(self, report: RequestReport) -> bool:
        """Deliver the report and forget the request. False when it had ended before."""
        request = self._live.pop(report.request_id, None)
        if request is None:
            return False
        self._reports[report.request_id] = report
        while len(self._reports) > self._kept_reports:
            self._reports.popitem(last=False)
        request.stream.push([report])
        return True

    def report(self, request_id: RequestId) -> RequestReport | None:
        """The report of a request that ended lately."""
        return self._reports.get(request_id)

    def streamed(self) -> tuple[Streamed, ...]:
        """Output so far of every live request."""
        return tuple(request.streamed() for request in self._live.values())

    def _new(
        self, tokens: Sequence[TokenOut], prompt_logprobs: Sequence[PromptLogprobs]
    ) -> Iterable[TokenOut | PromptLogprobs]:
        for item in prompt_logprobs:
            request = self._live.get(item.request_id)
            if request is not None and (new := request.accept_prompt(item)) is not None:
                yield new
        for token in tokens:
            request = self._live.get(token.request_id)
            if request is None:
                continue  # ended: the client has had its report
            if request.accept(token):
                yield token
            else:
                self.dropped_tokens += 1
