"""From the queue to the start of prefill.

Knows: who is tried next, what has to be answered before the prefill may start. Does not know: how a pair is
chosen (routing), what comes after (handoff).

    waiting ──route──► placing: Reserve to the decode worker, LeaseBlocks to other owners of cached blocks
    placing ──all answered──► StartPrefill          placing ──refused, lost, too late──► waiting again
"""

from __future__ import annotations

from diptych.domain.cluster import LimitsSpec
from diptych.domain.commands import Reserve, StartPrefill
from diptych.domain.events import Leased, ReserveRefused
from diptych.domain.ids import BlockId, LeaseId, WorkerId
from diptych.domain.lifecycle import Trigger
from diptych.domain.report import Moment
from diptych.orchestration.admission import Admission
from diptych.orchestration.attempts import Attempt, Attempts
from diptych.orchestration.endings import Endings
from diptych.orchestration.filters import Obstacle
from diptych.orchestration.jobs import Job
from diptych.orchestration.leases import Leases
from diptych.orchestration.outbox import Outbox
from diptych.orchestration.registry import Refusal, Registry, WorkerRef
from diptych.orchestration.routing import Plan, Router
from diptych.orchestration.timers import Timers
from diptych.orchestration.waiting import WaitingQueue

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

    def __init__(
        self,
        limits: LimitsSpec,
        router: Router,
        admission: Admission,
        queue: WaitingQueue,
        attempts: Attempts,
        endings: Endings,
        leases: Leases,
        registry: Registry,
        timers: Timers,
        outbox: Outbox,
    ) -> None:
        self._limits = limits
        self._router = router
        self._admission = admission
        self._queue = queue
        self._attempts = attempts
        self._endings = endings
        self._leases = leases
        self._registry = registry
        self._timers = timers
        self._outbox = outbox

    def place_waiting(self, now_s: float) -> None:
        """Try the queue in order. Whom only its own size keeps back may be passed for `OVERTAKE_S`; whom no
        worker of the present set can take is no obstacle to others; anything else holds up everybody."""
        passed = 0
        for job in self._queue:
            if (error := self._admission.never_fits(job)) is not None:
                self._endings.refuse(job, error, now_s)
                continue
            plan = self._router.route(job)
            if isinstance(plan, Plan):
                self._begin(job, plan, now_s)
            elif plan is Obstacle.BUSY:
                return
            elif plan is Obstacle.ROOM:
                passed += 1
                if not self._may_be_passed(job, now_s) or passed > OVERTAKE_REQUESTS:
                    return

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
        if not attempt.placing or (attempt.plan.pair.split and not attempt.reserved):
            return
        if all(self._leases.answered(lease_id) for lease_id in attempt.leases):
            self._start(attempt, now_s)

    def _may_be_passed(self, job: Job, now_s: float) -> bool:
        if job.blocked_since_s is None:
            job.blocked_since_s = now_s
        return now_s - job.blocked_since_s < OVERTAKE_S

    def _begin(self, job: Job, plan: Plan, now_s: float) -> None:
        self._endings.stop_waiting(job)
        job.blocked_since_s = None
        attempt = self._attempts.begin(job, plan)
        job.placements.append(plan.placement)
        job.moments.mark(Moment.ADMITTED, now_s)
        job.moments.mark(Moment.PLACED, now_s)
        self._timers.set(attempt.timer, now_s + self._limits.placing_timeout_s)
        if plan.pair.split:
            self._reserve(attempt)
        for owner, indices in _lent(attempt).items():
            self._ask_lease(attempt, owner, indices)
        self.start_if_answered(attempt, now_s)

    def _reserve(self, attempt: Attempt) -> None:
        attempt.present[attempt.decode.worker_id] = attempt.decode
        blocks = attempt.plan.pair.growth_blocks
        self._outbox.send(attempt.decode, Reserve(attempt.work, blocks))

    def _ask_lease(self, attempt: Attempt, owner_id: WorkerId, indices: tuple[int, ...]) -> None:
        owner = self._registry.get(owner_id)
        if owner is None:
            return
        lease_id = LeaseId(f"{attempt.export_lease}@{owner_id}")
        hits = attempt.plan.pair.hits.blocks
        hashes = tuple(attempt.work.block_hashes[index] for index in indices)
        attempt.asked[lease_id] = indices
        self._attempts.attach(attempt, lease_id)
        self._leases.ask(lease_id, owner, hashes, tuple(hits[index].block_id for index in indices))

    def _start(self, attempt: Attempt, now_s: float) -> None:
        worker = self._registry.current(attempt.prefill)
        if worker is None or worker.doomed:
            return
        borrowed = self._borrowed(attempt)
        split = attempt.plan.pair.split
        if split:
            self._attempts.attach(attempt, attempt.export_lease)
            self._leases.expect_export(attempt.export_lease, worker.worker_id)
        attempt.present[worker.worker_id] = worker.ref
        attempt.job.move(Trigger.PREFILL_SENT)
        attempt.job.moments.mark(Moment.PREFILL_QUEUED, now_s)
        self._timers.set(attempt.timer, now_s + self._limits.placing_timeout_s)
        export_lease = attempt.export_lease if split else None
        self._outbox.send(attempt.prefill, StartPrefill(attempt.work, borrowed, export_lease))

    def _borrowed(self, attempt: Attempt) -> dict[int, BlockId]:
        """Index in the sequence → lent block, up to the first hit that turned out to be gone."""
        granted: dict[int, BlockId] = {}
        for lease_id, indices in attempt.asked.items():
            granted.update(zip(indices, self._leases.blocks(lease_id), strict=False))
        borrowed: dict[int, BlockId] = {}
        prefill = attempt.prefill.worker_id
        for index, hit in enumerate(attempt.plan.pair.hits.blocks):
            if hit.owner == prefill:
                continue
            if index not in granted:
                break
            borrowed[index] = granted[index]
        return borrowed


def _lent(attempt: Attempt) -> dict[WorkerId, tuple[int, ...]]:
    """Owners other than the prefill worker → indices of the blocks that they have."""
    lent: dict[WorkerId, list[int]] = {}
    prefill = attempt.prefill.worker_id
    for index, hit in enumerate(attempt.plan.pair.hits.blocks):
        if hit.owner != prefill:
            lent.setdefault(hit.owner, []).append(index)
    return {owner: tuple(indices) for owner, indices in lent.items()}
