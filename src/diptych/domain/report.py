"""How a request ended, and why it ran where it ran.

Knows: outcome, moments, placements. Does not know: text, percentiles, HTTP.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from diptych.domain.ids import RequestId, WorkerId
from diptych.domain.lifecycle import State
from diptych.domain.request import FinishReason


class Moment(StrEnum):
    """Named instants of a request, all on one monotonic clock, in the order of an undisturbed life."""

    RECEIVED = "received"
    TOKENISED = "tokenised"
    ADMITTED = "admitted"
    PLACED = "placed"
    DECODE_RESERVED = "decode_reserved"
    PREFILL_QUEUED = "prefill_queued"
    PREFILL_STARTED = "prefill_started"
    FIRST_TOKEN = "first_token"
    HANDED_OFF = "handed_off"
    DECODE_STARTED = "decode_started"
    LAST_TOKEN = "last_token"
    FLUSHED = "flushed"


class HandoffKind(StrEnum):
    """How KV came from prefill to decode."""

    NONE = "none"
    """The same worker went on."""
    BORROW = "borrow"
    """Same memory domain: block ids were passed, at most one partly filled block was copied."""
    STREAM = "stream"
    """Another memory domain: every byte went over a link once."""


class HandoffReport(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One handoff. ``handoff_s`` is prefill end → decode may start."""

    kind: HandoffKind = HandoffKind.NONE
    blocks: int = 0
    bytes_lent: int = 0
    """KV bytes that changed hands without being copied."""
    bytes_streamed: int = 0
    """KV bytes that went over a link."""
    bytes_copied: int = 0
    handoff_s: float = 0.0


class Obstruction(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Why a worker, or a pair, was no candidate: the name of the filter, and its two figures."""

    why: str
    figure: int = 0
    limit: int = 0


class AloneView(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A worker that could prefill and decode the request. Figures are zero if it was no candidate."""

    worker_id: WorkerId
    obstruction: Obstruction | None
    cached_tokens: int | None = None
    """Tokens that need no computing; None: nobody looked."""
    own_share: float = 0.0
    """Share of the cached tokens that it has itself."""
    ttft_s: float = 0.0
    tpot_s: float = 0.0
    room: float = 0.0
    """Share of its KV memory that nobody has been promised."""


class PrefillView(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A worker that could prefill for another one. Figures are zero if it was no candidate."""

    worker_id: WorkerId
    obstruction: Obstruction | None
    cached_tokens: int | None = None
    own_share: float = 0.0
    ready_s: float = 0.0
    """Until its prefill would be done."""
    handoff: int = 0
    """Which of the decode worker's `handoffs_s` follows."""


class DecodeView(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A worker that could decode what another one prefills. Figures are zero if it was no candidate."""

    worker_id: WorkerId
    obstruction: Obstruction | None
    tpot_s: float = 0.0
    room: float = 0.0
    handoffs_s: tuple[float, ...] = ()


class SplitView(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Every prefill worker with every decode worker (but nobody with itself)."""

    prefill: tuple[PrefillView, ...]
    decode: tuple[DecodeView, ...]
    instead: tuple[tuple[WorkerId, PrefillView], ...] = ()
    """Views that hold for one decode worker only: it lends some blocks less, to have room for the output."""


class Considered(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """All that a placement looked at, by worker: what follows for each pair can be computed from it
    (`diptych.orchestration.explain`)."""

    alone: tuple[AloneView, ...] = ()
    splits: tuple[SplitView, ...] = ()
    strangers: tuple[tuple[WorkerId, str], ...] = ()
    """Workers that may not pair with themselves, and their roles."""
    apart: tuple[tuple[WorkerId, WorkerId, Obstruction], ...] = ()
    """Pairs whose blocks differ in size."""
    wanted_ttft_s: float = 0.0
    """The target, or the best prediction where there is no target: what is as good scores 1."""
    wanted_tpot_s: float = 0.0


class Candidate(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One pair that a placement considered. Scores lie in 0..1; ``rejected`` says which filter dropped it,
    and then there are no predictions."""

    prefill_worker: WorkerId
    decode_worker: WorkerId
    predicted_ttft_s: float | None = None
    predicted_tpot_s: float | None = None
    cached_tokens: int | None = None
    scores: dict[str, float] = {}
    total: float = 0.0
    rejected: str | None = None


class Placement(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Where one attempt runs, and all that was considered."""

    attempt: int
    prefill_worker: WorkerId
    decode_worker: WorkerId
    fit: int = 0
    """So many pairs could run it."""
    score: float = 0.0
    """Of the chosen one."""
    tokens: int = 0
    cached_tokens: int = 0
    """Those of them that it need not compute."""
    relaxed: str = ""
    """Which role was open to anyone, in words; empty if none was."""
    considered: Considered = Considered()

    @property
    def reason(self) -> str:
        """Why it runs there, in words."""
        prefill, decode = self.prefill_worker, self.decode_worker
        where = decode if prefill == decode else f"{prefill} → {decode}"
        chosen = f"{where}: best of {self.fit} with {self.score:.3f}"
        choice = f"{chosen}, {self.cached_tokens} of {self.tokens} tokens cached"
        return f"{choice}; {self.relaxed}" if self.relaxed else choice


class RequestReport(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The end of one request: exactly one exists for each `Request` that arrived."""

    request_id: RequestId
    state: State
    """A terminal state."""
    finish_reason: FinishReason | None = None
    error_code: str | None = None
    """`DiptychError.code` of the failure or rejection, if it was one."""
    error_message: str | None = None
    retry_after_s: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens found in a prompt cache by the first attempt."""
    moments: dict[Moment, float] = {}
    placements: tuple[Placement, ...] = ()
    """One for each attempt, the last one last."""
    handoff: HandoffReport = HandoffReport()
