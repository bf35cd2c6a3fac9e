"""From the queue to the start of prefill.

Knows: who is tried next, what has to be answered before the prefill may start. Does not know: how a pair is
chosen (routing), what comes after (handoff).

    waiting ──route──► placing: Reserve to the decode worker, LeaseBlocks to other owners of cached blocks
    placing ──all answered──► StartPrefill          placing ──refused, lost, too late──► waiting again
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from diptych.domain.commands import Reserve, StartPrefill
from diptych.domain.events import Leased, ReserveRefused
from diptych.domain.ids import BlockId, LeaseId, RequestId
from diptych.domain.lifecycle import Trigger
from diptych.domain.report import Moment
from diptych.orchestration.admission import Admission
from diptych.orchestration.attempts import Attempt
from diptych.orchestration.endings import Endings
from diptych.orchestration.jobs import Job
from diptych.orchestration.parts import Parts
from diptych.orchestration.prefix_index import Holder
from diptych.orchestration.reasons import Obstacle
from diptych.orchestration.registry import Refusal, WorkerRef
from diptych.orchestration.routing import Plan, Router

# Bound once: a lookup in an enumeration costs several times as much as one of a constant, and these are made
# for every request.
_ADMITTED: Final = Moment.ADMITTED
_PLACED: Final = Moment.PLACED
_PREFILL_QUEUED: Final = Moment.PREFILL_QUEUED
_PREFILL_SENT: Final = Trigger.PREFILL_SENT

OVERTAKE_S = 2.0
"""How long requests that fit may pass one that waits for more blocks than are free. Afterwards nobody
passes it: the cluster drains until it fits (an idle pair takes any request that fits its arenas), so
nobody starves."""

OVERTAKE_REQUESTS = 16
"""How many such requests are passed in one look, so that a look stays cheap."""

REFUSED_RETRY_S = 0.25
"""After which a worker that refused is asked again even if nothing is known to have changed there."""


class Placing:
    """Moves requests from the queue to their prefill workers."""

    def __init__(self, parts: Parts, router: Router, admission: Admission, endings: Endings) -> None:
        self._placing_timeout_s = parts.limits.placing_timeout_s
        self._ledger = parts.ledger
        self._index = parts.prefixes
        self._queue = parts.queue
        self._registry = parts.registry
        self._leases = parts.leases
        self._attempts = parts.attempts
        self._timers = parts.timers
        self._outbox = parts.outbox
        self._router = router
        self._admission = admission
        self._endings = endings
        self._obstacles: dict[RequestId, Obstacle] = {}
        """What stood in the way of those that were tried, as long as nothing has changed since."""
        self._tried_at: tuple[int, int, int] = (-1, -1, -1)
        self._tried_queue = -1

    def place_waiting(self, now_s: float) -> None:
        """Try the queue in order. Whom only its own size keeps back may be passed for `OVERTAKE_S`; whom no
        worker of the present set can take is no obstacle to others; anything else holds up everybody."""
        newcomers, self._queue.newcomers = self._queue.newcomers, []
        if not self._registry.usable():
            self._turn_away(newcomers, now_s)
            return
        if self._forget_if_changed() or self._tried_queue != self._queue.changes:
            self._try_in_order(now_s)
            self._tried_queue = self._queue.changes

    def welcome(self, job: Job, now_s: float) -> None:
        """A newcomer waits, unless nobody does and there is a place for it."""
        if self._queue.order:
            self._endings.wait(job, now_s)
            return
        self._forget_if_changed()
        plan = self._router.route(job)
        if isinstance(plan, Obstacle):
            self._obstacles[job.request_id] = plan
            self._endings.wait(job, now_s)
        else:
            self._begin(job, plan, now_s)

    def reserved(self, attempt: Attempt, now_s: float) -> None:
        """The decode worker has set blocks aside."""
        if attempt.after is not None:
            return
        attempt.reserved = True
        attempt.job.moments.mark(Moment.DECODE_RESERVED, now_s)
        self.start_if_answered(attempt, now_s)

    def refused(self, attempt: Attempt, event: ReserveRefused, now_s: float) -> None:
        """The decode worker has no room: wait, and do not ask it for as much until something changes."""
        self._attempts.leave(attempt, attempt.decode.worker_id, now_s)
        if attempt.placing:
            self._endings.try_again(attempt, now_s)
        self.cool(attempt.decode, event.available_blocks, now_s)

    def leased(self, event: Leased, now_s: float) -> None:
        """An owner has answered; if nobody waits any more, the lease goes back at once."""
        attempt = self._attempts.borrower(event.lease_id)
        if self._leases.grant(event.lease_id, event.block_ids) and attempt is not None:
            self.start_if_answered(attempt, now_s)

    def cool(self, ref: WorkerRef, available_blocks: int, now_s: float) -> None:
        """This worker has no room for more than ``available_blocks`` for the moment."""
        worker = self._registry.current(ref)
        if worker is not None and not worker.doomed:
            self._registry.refuse(worker, Refusal(available_blocks, now_s + REFUSED_RETRY_S))

    def start_if_answered(self, attempt: Attempt, now_s: float) -> None:
        """Order the prefill once the reservation stands and every lease is answered."""
        if not attempt.placing or (attempt.pair.split and not attempt.reserved):
            return
        if not attempt.leases or all(self._leases.answered(lease_id) for lease_id in attempt.leases):
            self._start(attempt, now_s)

    def _forget_if_changed(self) -> bool:
        """Whether anything may have made room since obstacles were noted."""
        state = (self._ledger.releases, self._registry.hopes, self._index.additions)
        if state == self._tried_at:
            return False
        self._obstacles.clear()
        self._tried_at = state
        return True

    def _try_in_order(self, now_s: float) -> None:
        passed = 0
        for job in self._queue:
            obstacle = self._obstacles.get(job.request_id)
            if obstacle is None:
                obstacle = self._try(job, now_s)
            if obstacle is Obstacle.BUSY:
                return
            if obstacle is Obstacle.ROOM:
                passed += 1
                if not self._may_be_passed(job, now_s) or passed > OVERTAKE_REQUESTS:
                    return

    def _try(self, job: Job, now_s: float) -> Obstacle:
        """Place it, or turn it away for good (no obstacle to others), or see what stands in the way."""
        if (error := self._admission.never_fits(job)) is not None:
            self._endings.refuse(job, error, now_s)
            return Obstacle.NONE
        plan = self._router.route(job)
        if isinstance(plan, Obstacle):
            self._obstacles[job.request_id] = plan
            return plan
        self._endings.stop_waiting(job)
        self._begin(job, plan, now_s)
        return Obstacle.NONE

    def _turn_away(self, jobs: Sequence[Job], now_s: float) -> None:
        """Those that no worker could ever take need not wait for one to come back."""
        for job in jobs:
            error = self._admission.never_fits(job) if job.request_id in self._queue else None
            if error is not None:
                self._endings.refuse(job, error, now_s)

    def _may_be_passed(self, job: Job, now_s: float) -> bool:
        if job.blocked_since_s is None:
            job.blocked_since_s = now_s
        return now_s - job.blocked_since_s < OVERTAKE_S

    def _begin(self, job: Job, plan: Plan, now_s: float) -> None:
        job.blocked_since_s = None
        pair = plan.pair
        attempt = self._attempts.begin(job, pair)
        job.placements.append(plan.placement)
        job.moments.mark(_ADMITTED, now_s)
        job.moments.mark(_PLACED, now_s)
        if pair.split:
            attempt.present[attempt.decode.worker_id] = attempt.decode
            self._outbox.send(attempt.decode, Reserve(attempt.work, pair.growth_blocks))
        if pair.hits.own < pair.hits.blocks:
            for owner, indices in pair.hits.lent(attempt.prefill.worker_id).items():
                self._ask_lease(attempt, owner, indices)
        if pair.split or attempt.leases:
            self._timers.set(attempt.timer, now_s + self._placing_timeout_s)
        else:
            self._start(attempt, now_s)

    def _ask_lease(self, attempt: Attempt, holder: Holder, indices: tuple[int, ...]) -> None:
        owner = self._registry.get(holder.owner)
        if owner is None:
            return
        lease_id = LeaseId(f"{attempt.export_lease}@{holder.owner}")
        hashes = tuple([attempt.pair.hashes[index] for index in indices])
        attempt.asked[lease_id] = indices
        self._attempts.attach(attempt, lease_id)
        self._leases.ask(lease_id, owner, hashes, holder.ids(hashes))

    def _start(self, attempt: Attempt, now_s: float) -> None:
        worker = self._registry.current(attempt.prefill)
        if worker is None or worker.doomed:
            return
        borrowed = self._borrowed(attempt) if attempt.asked else {}
        export_lease: LeaseId | None = None
        if attempt.pair.split:
            export_lease = attempt.export_lease
            self._attempts.attach(attempt, export_lease)
            self._leases.expect_export(export_lease, worker.worker_id)
        attempt.present[worker.worker_id] = worker.ref
        attempt.job.move(_PREFILL_SENT)
        attempt.job.moments.mark(_PREFILL_QUEUED, now_s)
        self._timers.set(attempt.timer, now_s + self._placing_timeout_s)
        self._outbox.send(attempt.prefill, StartPrefill(attempt.work, borrowed, export_lease))

    def _borrowed(self, attempt: Attempt) -> dict[int, BlockId]:
        """Index in the sequence → lent block, up to the first hit that turned out to be gone."""
        granted: dict[int, BlockId] = {}
        for lease_id, indices in attempt.asked.items():
            granted.update(zip(indices, self._leases.blocks(lease_id), strict=False))
        borrowed: dict[int, BlockId] = {}
        for holder, start, stop in attempt.pair.hits.parts:
            if holder.owner == attempt.prefill.worker_id:
                continue
            for index in range(start, stop):
                if index not in granted:
                    return borrowed
                borrowed[index] = granted[index]
        return borrowed
