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


class HandoffReport(msgspec.Struct, frozen=True, kw_only=True):
    """One handoff. ``handoff_s`` is prefill end → decode may start."""

    kind: HandoffKind = HandoffKind.NONE
    blocks: int = 0
    bytes_lent: int = 0
    """KV bytes that changed hands without being copied."""
    bytes_streamed: int = 0
    """KV bytes that went over a link."""
    bytes_copied: int = 0
    handoff_s: float = 0.0


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One pair that a placement considered. Scores lie in 0..1; ``rejected`` says which filter dropped it."""

    prefill_worker: WorkerId
    decode_worker: WorkerId
    predicted_ttft_s: float
    predicted_tpot_s: float
    cached_tokens: int
    scores: dict[str, float] = {}
    total: float = 0.0
    rejected: str | None = None


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Where one attempt runs, and all that was considered."""

    attempt: int
    prefill_worker: WorkerId
    decode_worker: WorkerId
    reason: str
    candidates: tuple[Candidate, ...] = ()


class RequestReport(msgspec.Struct, frozen=True, kw_only=True):
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
