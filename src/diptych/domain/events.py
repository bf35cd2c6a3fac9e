"""All that the orchestrator can hear. Two closed unions, matched exhaustively.

`WorkerEvent` is what a worker says (and goes over the wire as it is, inside a `StepReport`); `Event` is
what the driver hands to the orchestrator. Tokens are not among them: they go straight to the front end.
"""

from __future__ import annotations

from typing import TypeAlias, final

import msgspec

from diptych.domain.ids import BlockHash, BlockId, LeaseId, RequestId, TokenId, WorkerId
from diptych.domain.request import FinishReason, PromptLogprobs, Request, TokenOut
from diptych.domain.worker import WorkerInfo, WorkerStats

# ---------------------------------------------------------------- from a worker


@final
class Reserved(msgspec.Struct, frozen=True, gc=False, tag="reserved"):
    """The blocks are set aside."""

    request_id: RequestId
    attempt: int


@final
class ReserveRefused(msgspec.Struct, frozen=True, gc=False, tag="reserve_refused"):
    """There is no room now; nothing is held."""

    request_id: RequestId
    attempt: int
    available_blocks: int


@final
class Leased(msgspec.Struct, frozen=True, gc=False, tag="leased"):
    """Block ids of the asked hashes up to the first that is gone (empty: no lease exists)."""

    lease_id: LeaseId
    block_ids: tuple[BlockId, ...]


@final
class PrefillStarted(msgspec.Struct, frozen=True, gc=False, tag="prefill_started"):
    """The first chunk is in a step. ``cached_tokens`` need no computing."""

    request_id: RequestId
    attempt: int
    cached_tokens: int


@final
class PrefillDone(msgspec.Struct, frozen=True, gc=False, tag="prefill_done"):
    """KV of ``computed_tokens`` tokens stands in ``block_ids`` (own and borrowed); own blocks are now held
    by the export lease. The first output token is in the same report."""

    request_id: RequestId
    attempt: int
    block_ids: tuple[BlockId, ...]
    computed_tokens: int


@final
class DecodeStarted(msgspec.Struct, frozen=True, gc=False, tag="decode_started"):
    """The sequence is able to decode here from now on; its copy, if any, is done. ``copied_bytes`` are those
    that were fetched if its KV came from another memory domain."""

    request_id: RequestId
    attempt: int
    copied_bytes: int = 0


@final
class Finished(msgspec.Struct, frozen=True, gc=False, tag="finished"):
    """The last token is in the same report; nothing is held here any more but cached blocks."""

    request_id: RequestId
    attempt: int
    finish_reason: FinishReason


FETCH_FAILED = "fetch_failed"
"""Reason to give a sequence back: its KV did not come over from another memory domain."""


@final
class Bounced(msgspec.Struct, frozen=True, gc=False, tag="bounced"):
    """Given back (KV pressure, or `FETCH_FAILED`): nothing is held here any more; place it again with the
    tokens so far."""

    request_id: RequestId
    attempt: int
    reason: str


@final
class Dropped(msgspec.Struct, frozen=True, gc=False, tag="dropped"):
    """Nothing of this attempt is held here, and no step touches its blocks."""

    request_id: RequestId
    attempt: int


@final
class BlocksCached(msgspec.Struct, frozen=True, gc=False, tag="blocks_cached"):
    """These full blocks can be found by hash in this worker's arena from now on."""

    hashes: tuple[BlockHash, ...]
    block_ids: tuple[BlockId, ...]


@final
class BlocksEvicted(msgspec.Struct, frozen=True, gc=False, tag="blocks_evicted"):
    """These can not any more."""

    hashes: tuple[BlockHash, ...]


WorkerEvent: TypeAlias = (
    Reserved
    | ReserveRefused
    | Leased
    | PrefillStarted
    | PrefillDone
    | DecodeStarted
    | Finished
    | Bounced
    | Dropped
    | BlocksCached
    | BlocksEvicted
)


@final
class StepReport(msgspec.Struct, frozen=True, gc=False, tag="step_report", kw_only=True):
    """What a worker sends at a step boundary or after a command. ``t_s``: the worker's monotonic clock.

    Order matters: the driver gives ``tokens`` and ``prompt_logprobs`` to their streams, then ``events`` to
    the orchestrator, one by one.
    """

    t_s: float
    events: tuple[WorkerEvent, ...] = ()
    tokens: tuple[TokenOut, ...] = ()
    prompt_logprobs: tuple[PromptLogprobs, ...] = ()
    stats: WorkerStats | None = None


# ---------------------------------------------------------------- to the orchestrator


@final
class RequestArrived(msgspec.Struct, frozen=True, gc=False, tag="request_arrived", kw_only=True):
    """A request, tokenised and hashed. ``received_s`` is when its first byte came."""

    request: Request
    received_s: float
    tokenised_s: float


@final
class ClientGone(msgspec.Struct, frozen=True, gc=False, tag="client_gone"):
    """The client left or cancelled."""

    request_id: RequestId


@final
class StopMatched(msgspec.Struct, frozen=True, gc=False, tag="stop_matched"):
    """The front end found a stop string: the output is complete."""

    request_id: RequestId


@final
class WorkerJoined(msgspec.Struct, frozen=True, gc=False, tag="worker_joined"):
    """An incarnation is ready. The leases that an earlier one of the same id had granted and that are still
    held (`Orchestrator.adopted_leases`) were handed to it when it started."""

    info: WorkerInfo


@final
class Streamed(msgspec.Struct, frozen=True, gc=False):
    """The output tokens of a request that its client has been given or will be given."""

    request_id: RequestId
    token_ids: tuple[TokenId, ...]


@final
class WorkerLostEvent(msgspec.Struct, frozen=True, gc=False, tag="worker_lost"):
    """This incarnation is dead for certain, and all it ever sent has been handled.

    ``streamed`` covers at least every live request that the orchestrator had sent to this worker.
    """

    worker_id: WorkerId
    incarnation: int
    reason: str
    streamed: tuple[Streamed, ...] = ()


@final
class WorkerSaid(msgspec.Struct, frozen=True, gc=False, tag="worker_said"):
    """One event of one incarnation. ``said_s``: when it happened, on the cluster's monotonic clock.
    ``streamed``: output so far of the request it is about, when the event gives a request back (`Bounced`,
    `Dropped`) or hands it on (`PrefillDone`)."""

    worker_id: WorkerId
    incarnation: int
    said_s: float
    event: WorkerEvent
    streamed: Streamed | None = None


@final
class Heartbeat(msgspec.Struct, frozen=True, gc=False, tag="heartbeat"):
    """The worker lives; its load."""

    worker_id: WorkerId
    incarnation: int
    stats: WorkerStats


@final
class Tick(msgspec.Struct, frozen=True, gc=False, tag="tick"):
    """The time asked for by `WakeAt` has come."""


@final
class HeadResumed(msgspec.Struct, frozen=True, gc=False, tag="head_resumed"):
    """The head itself stood still for ``paused_s`` until now: that nothing was heard meanwhile is not the
    workers' silence."""

    paused_s: float


Event: TypeAlias = (
    RequestArrived
    | ClientGone
    | StopMatched
    | WorkerJoined
    | WorkerLostEvent
    | WorkerSaid
    | Heartbeat
    | Tick
    | HeadResumed
)
