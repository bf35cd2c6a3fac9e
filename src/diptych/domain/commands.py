"""All that the orchestrator can order. Two closed unions, matched exhaustively.

`WorkerCommand` goes to one worker (and over the wire as it is); `Command` is for the driver, which performs
it without deciding anything. Knows: orders. Does not know: how they are carried out.
"""

from __future__ import annotations

from typing import TypeAlias, final

import msgspec

from diptych.domain.ids import BlockHash, BlockId, LeaseId, RequestId, TokenId, WorkerId
from diptych.domain.report import RequestReport
from diptych.domain.request import Work

# ---------------------------------------------------------------- to a worker


@final
class Reserve(msgspec.Struct, frozen=True, gc=False, tag="reserve"):
    """Set ``blocks`` aside for the decode of ``work`` before its prefill starts, and get to know it: the
    order to decode then carries only what is new, so that a handoff costs the same for any prompt.

    Answered by `Reserved` or `ReserveRefused`.
    """

    work: Work
    blocks: int

    @property
    def request_id(self) -> RequestId:
        """The request's name."""
        return self.work.request_id

    @property
    def attempt(self) -> int:
        """Which attempt of the request it is for."""
        return self.work.attempt


@final
class LeaseBlocks(msgspec.Struct, frozen=True, gc=False, tag="lease_blocks"):
    """Lend the cached blocks with these hashes. Answered by `Leased` with those that are still there."""

    lease_id: LeaseId
    hashes: tuple[BlockHash, ...]


@final
class ReleaseLease(msgspec.Struct, frozen=True, gc=False, tag="release_lease"):
    """The borrower is done (or dead). Unknown leases are ignored; no answer."""

    lease_id: LeaseId


@final
class StartPrefill(msgspec.Struct, frozen=True, gc=False, tag="start_prefill"):
    """Compute KV for all tokens of ``work``, then sample the next token.

    ``borrowed`` maps block index in the sequence → block id lent by another worker's arena. With
    ``export_lease`` the worker keeps its blocks of the sequence under that lease afterwards and reports
    `PrefillDone`; without, it goes on to decode by itself and reports `DecodeStarted`.
    """

    work: Work
    borrowed: dict[int, BlockId] = {}
    export_lease: LeaseId | None = None


@final
class StartDecode(msgspec.Struct, frozen=True, gc=False, tag="start_decode"):
    """Go on from KV that is already in ``block_ids`` for the first ``computed_tokens`` tokens.

    Full blocks are borrowed as they are; a last, partly filled one is copied into a block of the worker's
    own, because only the owner of a block writes into it. Answered by `DecodeStarted` or `Bounced`.
    ``new_token_ids`` follow the tokens of the work that was reserved for.

    With ``source`` the blocks lie in another memory domain, in that worker's arena: nothing is borrowed, all
    of
    the KV is fetched into blocks of the worker's own, and `DecodeStarted` follows when it is there.
    """

    request_id: RequestId
    attempt: int
    new_token_ids: tuple[TokenId, ...]
    block_ids: tuple[BlockId, ...]
    computed_tokens: int
    source: WorkerId | None = None


@final
class FinishWork(msgspec.Struct, frozen=True, gc=False, tag="finish_work"):
    """The front end has seen a stop string: end as finished. Answered by `Dropped`."""

    request_id: RequestId
    attempt: int


@final
class DropWork(msgspec.Struct, frozen=True, gc=False, tag="drop_work"):
    """Forget the request in whatever state it is here: reserved, waiting, running. Answered by `Dropped`,
    also when nothing was known (so that the order can be repeated)."""

    request_id: RequestId
    attempt: int


WorkerCommand: TypeAlias = (
    Reserve | LeaseBlocks | ReleaseLease | StartPrefill | StartDecode | FinishWork | DropWork
)

# ---------------------------------------------------------------- to the driver


@final
class Send(msgspec.Struct, frozen=True, gc=False, tag="send"):
    """Pass ``command`` to this incarnation of a worker; drop it silently if that incarnation is gone (its
    `WorkerLostEvent` is on the way or has been handled)."""

    worker_id: WorkerId
    incarnation: int
    command: WorkerCommand


@final
class KillWorker(msgspec.Struct, frozen=True, gc=False, tag="kill_worker"):
    """End this incarnation for certain (it hangs). `WorkerLostEvent` follows once it can write no more."""

    worker_id: WorkerId
    incarnation: int
    reason: str


@final
class EndRequest(msgspec.Struct, frozen=True, gc=False, tag="end_request"):
    """The one client-visible outcome of a request."""

    report: RequestReport


@final
class WakeAt(msgspec.Struct, frozen=True, gc=False, tag="wake_at"):
    """Raise a `Tick` at this time. Replaces any earlier wish."""

    t_s: float


Command: TypeAlias = Send | KillWorker | EndRequest | WakeAt
