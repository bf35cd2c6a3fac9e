"""The orchestrator: events in, commands out.

Knows: which manager hears which event. Does not know: anything that a manager knows better. Synchronous and
deterministic: the same events at the same times give the same commands.
"""

from __future__ import annotations

from math import inf
from typing import Final, TypeAlias, assert_never

from diptych.domain.cluster import LimitsSpec, SloSpec
from diptych.domain.commands import Command, WakeAt
from diptych.domain.errors import Bug
from diptych.domain.events import (
    BlocksCached,
    BlocksEvicted,
    Bounced,
    ClientGone,
    DecodeStarted,
    Dropped,
    Event,
    Finished,
    HeadResumed,
    Heartbeat,
    Leased,
    PrefillDone,
    PrefillStarted,
    RequestArrived,
    Reserved,
    ReserveRefused,
    StopMatched,
    Tick,
    WorkerJoined,
    WorkerLostEvent,
    WorkerSaid,
)
from diptych.domain.ids import BlockId, LeaseId, RequestId, WorkerId
from diptych.domain.lifecycle import State
from diptych.domain.report import Moment
from diptych.domain.request import FinishReason
from diptych.domain.worker import WorkerInfo, WorkerStats
from diptych.orchestration.admission import Admission
from diptych.orchestration.attempts import After, Attempt
from diptych.orchestration.endings import Endings
from diptych.orchestration.faults import Faults
from diptych.orchestration.handoff import Handoff
from diptych.orchestration.jobs import Job
from diptych.orchestration.parts import Parts
from diptych.orchestration.placing import Placing
from diptych.orchestration.registry import Worker
from diptych.orchestration.routing import Router
from diptych.orchestration.snapshot import Snapshot, WorkerView
from diptych.orchestration.timers import Timer
from diptych.performance.estimate import CostModel

# Bound once: a lookup in an enumeration costs several times as much as one of a constant, and these are made
# for every request.
_RECEIVED: Final = Moment.RECEIVED
_TOKENISED: Final = Moment.TOKENISED
_ADMITTED: Final = Moment.ADMITTED

AttemptEvent: TypeAlias = (
    Reserved | ReserveRefused | PrefillStarted | PrefillDone | DecodeStarted | Finished | Bounced | Dropped
)
"""What a worker says of one attempt."""

OtherEvent: TypeAlias = (
    RequestArrived
    | ClientGone
    | StopMatched
    | WorkerJoined
    | WorkerLostEvent
    | Heartbeat
    | Tick
    | HeadResumed
)
"""All but what workers say."""


class Orchestrator:
    """The whole cluster's decisions. `handle` is the only way in; every command of its answer is to be
    performed in order. After a `Bug` it must not be used any more."""

    def __init__(
        self, limits: LimitsSpec, cost: CostModel, *, max_model_tokens: int, slo: SloSpec = SloSpec()
    ) -> None:
        parts = Parts.make(limits, cost)
        self._cost = cost
        self._timers = parts.timers
        self._outbox = parts.outbox
        self._ledger = parts.ledger
        self._index = parts.prefixes
        self._queue = parts.queue
        self._registry = parts.registry
        self._leases = parts.leases
        self._attempts = parts.attempts
        self._endings = Endings(parts, max_model_tokens)
        self._attempts.on_over = self._endings.over
        self._admission = Admission(parts, max_model_tokens)
        router = Router(parts, slo)
        self._placing = Placing(parts, router, self._admission, self._endings)
        self._handoff = Handoff(parts, self._endings, self._placing)
        self._faults = Faults(parts, self._endings, self._placing)
        self._wish_s = inf

    def handle(self, event: Event, now_s: float) -> list[Command]:
        """React to ``event`` at ``now_s`` (never smaller than before).

        Events of incarnations that are not the living one, of attempts that are over, and about requests that
        have ended are ignored. Raises `Bug` for a second `RequestArrived` of a request that has not ended,
        and for a move that the lifecycle does not hold.
        """
        if type(event) is WorkerSaid:  # not `isinstance`, which costs five times as much where it says no
            tries = self._said(event, now_s)
        else:
            self._dispatch(event, now_s)
            tries = True
        if self._timers.earliest_s <= now_s:
            tries = self._fire(now_s) or tries  # afterwards: whom we have just heard is not silent
        if tries and self._queue.order:
            self._placing.place_waiting(now_s)
        if type(event) is RequestArrived:
            self._shed(event.request.request_id, now_s)
        if self._registry.none_since_s is not None:
            self._faults.watch_absence()
        if self._timers.earliest_s < self._wish_s:
            self._wish()
        return self._outbox.take()

    def adopted_leases(self, worker_id: WorkerId) -> dict[LeaseId, tuple[BlockId, ...]]:
        """Leases that the next incarnation of a dead worker has to hold from its start: its blocks that
        others still use. To be asked after the `WorkerLostEvent` was handled, when the next incarnation is
        started."""
        return self._leases.adopted(worker_id)

    def snapshot(self) -> Snapshot:
        """The cluster at this moment."""
        states = [job.state for job in self._endings.jobs.values()]
        return Snapshot(
            workers=tuple(self._view(info) for info in self._registry.known()),
            queued_requests=len(self._queue),
            queued_tokens=self._queue.prompt_tokens,
            requests={state: states.count(state) for state in State if state in states},
            ended=dict(self._endings.ended),
            attempts=len(self._attempts),
            leases=len(self._leases),
            can_serve=bool(self._registry.usable()),
        )

    def check(self) -> None:
        """Raise `Bug` if what the managers believe does not fit together."""
        attempts = self._attempts.all()
        held = [(worker_id, hold) for attempt in attempts for worker_id, hold in attempt.holds.items()]
        self._ledger.check([*held, *self._leases.holds()])
        used = {lease_id for attempt in attempts for lease_id in attempt.leases}
        for lease_id in self._leases.ids():
            if lease_id not in used and lease_id not in self._leases.orphans():
                raise Bug(f"lease {lease_id} belongs to no attempt")
        for job in self._endings.jobs.values():
            carried = self._attempts.carrying(job) is not None
            if carried == (job.request_id in self._queue):
                raise Bug(f"{job.request_id} in {job.state.value} is {'also' if carried else 'not'} waiting")
        live = {worker.worker_id for worker in self._registry.live()}
        if not live.issuperset(self._index.owners()):
            raise Bug("the prefix index names dead workers")

    def _fire(self, now_s: float) -> bool:
        """Act on the deadlines that have passed; whether there was one."""
        fired = False
        while (key := self._timers.pop_due(now_s)) is not None:
            self._faults.due(key, now_s)
            fired = True
        return fired

    def _dispatch(self, event: OtherEvent, now_s: float) -> None:
        self._registry.note_absence(now_s)
        if type(event) is RequestArrived:
            self._arrived(event, now_s)
            return
        if type(event) is Heartbeat:
            self._heartbeat(event, now_s)
            return
        match event:
            case Tick():
                self._wish_s = inf
            case ClientGone():
                self._client_gone(event.request_id, now_s)
            case StopMatched():
                self._stop_matched(event.request_id, now_s)
            case WorkerJoined():
                self._joined(event.info, now_s)
            case WorkerLostEvent():
                self._faults.lost(event, now_s)
            case HeadResumed(paused_s):
                self._registry.excuse(now_s)
                self._timers.postpone(Timer.ATTEMPT, paused_s)
            case _:
                assert_never(event)

    def _arrived(self, event: RequestArrived, now_s: float) -> None:
        request_id = event.request.request_id
        if request_id in self._endings.jobs:
            raise Bug(f"request {request_id} arrived twice")
        job = Job(event.request, received_s=event.received_s, queued_s=now_s)
        job.moments.mark(_RECEIVED, event.received_s)
        job.moments.mark(_TOKENISED, event.tokenised_s)
        self._endings.jobs[request_id] = job
        if (error := self._admission.never_fits(job)) is not None:
            self._endings.reject(job, error, now_s)
        else:
            self._placing.welcome(job, now_s)

    def _shed(self, request_id: RequestId, now_s: float) -> None:
        """The newcomer that found no place is turned away if too many wait; nobody who was let in ever is."""
        job = self._endings.jobs.get(request_id)
        if job is None:
            return
        error = self._admission.overflows() if request_id in self._queue else None
        if error is not None:
            self._endings.reject(job, error, now_s)
        else:
            job.moments.mark(_ADMITTED, now_s)

    def _client_gone(self, request_id: RequestId, now_s: float) -> None:
        job = self._endings.jobs.get(request_id)
        if job is not None:
            self._endings.abort(job, now_s)

    def _stop_matched(self, request_id: RequestId, now_s: float) -> None:
        """End at once if nobody computes; else when the worker has confirmed, so that its blocks are
        cached."""
        job = self._endings.jobs.get(request_id)
        if job is None:
            return
        attempt = self._attempts.carrying(job)
        if attempt is None or attempt.placing:
            self._endings.finish(job, FinishReason.STOP, now_s)
        else:
            job.moments.mark(Moment.LAST_TOKEN, now_s)
            self._attempts.close(attempt, After.FINISH, now_s)

    def _joined(self, info: WorkerInfo, now_s: float) -> None:
        worker = self._registry.join(info, now_s)
        if worker is not None:
            self._leases.owner_joined(worker)

    def _heartbeat(self, event: Heartbeat, now_s: float) -> None:
        worker = self._registry.living(event.worker_id, event.incarnation)
        if worker is not None:
            self._registry.report(worker, event.stats, now_s)
            self._cost.observe(worker.worker_id, event.stats)

    def _said(self, said: WorkerSaid, now_s: float) -> bool:
        """Whether a request that could not be placed before may have a place now."""
        worker = self._registry.living(said.worker_id, said.incarnation)
        if worker is None:
            return True
        worker.heard_s = now_s
        event = said.event
        if type(event) is BlocksCached:
            self._index.cached(worker.info.domain_id, worker.worker_id, event.hashes, event.block_ids)
            return False
        if type(event) is BlocksEvicted:
            self._index.evicted(worker.worker_id, event.hashes)
            return False
        if type(event) is Leased:
            self._placing.leased(event, now_s)
            return True
        attempt = self._attempts.get(event.request_id, event.attempt)
        if attempt is None or worker.worker_id not in attempt.present:
            return True
        return self._said_of_attempt(attempt, said, event, now_s)

    def _said_of_attempt(self, attempt: Attempt, said: WorkerSaid, event: AttemptEvent, now_s: float) -> bool:
        """See `_said`."""
        if type(event) is Reserved:  # in the order of an undisturbed life
            self._placing.reserved(attempt, said.said_s)
        elif type(event) is PrefillStarted:
            self._handoff.prefill_started(attempt, event, said.said_s)
            return False
        elif type(event) is PrefillDone:
            self._handoff.prefill_done(attempt, said, event, now_s)
        elif type(event) is DecodeStarted:
            self._handoff.decode_started(attempt, said, event)
        elif type(event) is Finished:
            self._handoff.finished(attempt, said, event, now_s)
        elif type(event) is Bounced:
            self._handoff.bounced(attempt, said, event, now_s)
        elif type(event) is Dropped:
            self._handoff.dropped(attempt, said, now_s)
        elif type(event) is ReserveRefused:
            self._placing.refused(attempt, event, now_s)
        else:
            assert_never(event)
        return True

    def _wish(self) -> None:
        """Ask to be called at the next deadline, unless that or an earlier call is on its way."""
        next_s = self._timers.next_s()
        if next_s is not None and next_s < self._wish_s:
            self._wish_s = next_s
            self._outbox.add(WakeAt(next_s))

    def _view(self, info: WorkerInfo) -> WorkerView:
        worker: Worker | None = self._registry.get(info.worker_id)
        account = self._ledger.account(info.worker_id)
        return WorkerView(
            info=info,
            alive=worker is not None,
            usable=worker is not None and not worker.doomed,
            stats=worker.stats if worker is not None else WorkerStats(),
            backlog_tokens=account.prefill_tokens,
            decodes=account.decodes,
            promised_blocks=len(account.pins) + account.blocks,
            cached_blocks=self._index.owned_blocks(info.worker_id),
        )
