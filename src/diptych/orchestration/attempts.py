"""One try to run a request on a pair of workers, and what it holds until it is over.

Knows: which workers may still touch the request, its holds and leases, how to stop. Does not know: why it
stops, or what becomes of the request (`After` and a callback say so).

An attempt that ends early is *closed*: whoever may still compute for it is told to drop it, and only when all
have confirmed (or are dead) are its leases released. A request is queued again only then, too: nobody
computes for it any more, so no token of it can come twice.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final, TypeAlias

from diptych.domain.commands import DropWork, FinishWork
from diptych.domain.ids import LeaseId, RequestId, WorkerId
from diptych.domain.lifecycle import State
from diptych.domain.request import Work
from diptych.orchestration.jobs import Job
from diptych.orchestration.leases import Leases
from diptych.orchestration.ledger import Hold, Ledger
from diptych.orchestration.outbox import Outbox
from diptych.orchestration.pairs import Pair
from diptych.orchestration.registry import Registry, WorkerRef
from diptych.orchestration.timers import Timer, TimerKey, Timers

# Bound once: a lookup in an enumeration costs several times as much as one of a constant, and these are made
# for every request.
_HANDING_OFF: Final = State.HANDING_OFF
_QUEUED: Final = State.QUEUED
_DECODING: Final = State.DECODING
_ATTEMPT: Final = Timer.ATTEMPT


class After(StrEnum):
    """What becomes of the request once a closed attempt holds nothing any more."""

    NOTHING = "nothing"
    """The request has ended, or is carried by a later attempt."""
    REQUEUE = "requeue"
    FINISH = "finish"
    """A stop string was found."""


AttemptKey: TypeAlias = tuple[RequestId, int]
"""The name of an attempt: its request's, and its number."""


class Attempt:
    """One placement being carried out."""

    __slots__ = (
        "after",
        "asked",
        "computed_tokens",
        "decode",
        "handed_blocks",
        "holds",
        "job",
        "key",
        "leases",
        "number",
        "pair",
        "prefill",
        "prefill_began_s",
        "prefilled_s",
        "present",
        "reserved",
        "timer",
        "work",
    )

    def __init__(self, job: Job, number: int, pair: Pair) -> None:
        self.job = job
        self.number = number
        self.pair = pair
        self.work: Work = job.work(number, pair.block_tokens)
        self.key: AttemptKey = (job.request_id, number)
        self.timer = TimerKey(_ATTEMPT, job.request_id, number)
        """The deadline of its present stage."""
        self.prefill = pair.prefill.ref
        """Who computes the prompt."""
        self.decode = pair.decode.ref
        """Who computes the output."""
        self.present: dict[WorkerId, WorkerRef] = {}
        """Workers that may know of it: they compute, wait or keep a reservation. Emptied by their answers."""
        self.holds: dict[WorkerId, Hold] = {}
        """Its charges in the ledger; those of leases are kept by the leases."""
        self.leases: dict[LeaseId, None] = {}
        self.asked: dict[LeaseId, tuple[int, ...]] = {}
        """Borrowed leases and the indices, in the sequence, of the blocks that were asked for."""
        self.reserved = False
        self.prefill_began_s = 0.0
        self.prefilled_s = 0.0
        self.handed_blocks = 0
        self.computed_tokens = 0
        self.after: After | None = None
        """Set when it is closed."""

    @property
    def export_lease(self) -> LeaseId:
        """The lease into which its prefill turns its blocks."""
        return LeaseId(f"{self.key[0]}#{self.number}")

    @property
    def prefill_s(self) -> float:
        """How long its prefill took."""
        return max(0.0, self.prefilled_s - self.prefill_began_s)

    @property
    def fetching_from(self) -> WorkerRef | None:
        """Who must live until the decode worker has fetched the KV into blocks of its own; None if nobody
        need: within a domain, the bytes outlive their worker."""
        fetching = self.pair.streamed and self.job.state is _HANDING_OFF
        return self.prefill if fetching else None

    @property
    def placing(self) -> bool:
        """Reservation or leases are awaited; nobody computes."""
        return self.after is None and self.job.state is _QUEUED

    @property
    def runner(self) -> WorkerId:
        """Who runs (or is to run) the sequence now."""
        decoding = self.job.state in (_HANDING_OFF, _DECODING)
        return self.decode.worker_id if decoding else self.prefill.worker_id


class Attempts:
    """All attempts that hold anything, in the order in which they began."""

    def __init__(
        self, registry: Registry, ledger: Ledger, leases: Leases, timers: Timers, outbox: Outbox
    ) -> None:
        self._registry = registry
        self._ledger = ledger
        self._leases = leases
        self._timers = timers
        self._outbox = outbox
        self._attempts: dict[AttemptKey, Attempt] = {}
        self._by_lease: dict[LeaseId, AttemptKey] = {}
        self.on_over: Callable[[Attempt, float], None] = _nothing
        """Called with an attempt that closed with `After.REQUEUE` or `After.FINISH`, once it is over."""

    def __len__(self) -> int:
        return len(self._attempts)

    def begin(self, job: Job, pair: Pair) -> Attempt:
        """Open the next attempt of ``job`` and charge the workers of ``pair`` for it."""
        job.attempts += 1
        job.attempt = job.attempts
        attempt = Attempt(job, job.attempts, pair)
        self._attempts[attempt.key] = attempt
        self._charge(attempt, pair.prefill.worker_id, pair.prefill_hold())
        if pair.split:
            self._charge(attempt, pair.decode.worker_id, pair.decode_hold())
        return attempt

    def get(self, request_id: RequestId, number: int | None) -> Attempt | None:
        """The attempt of this name, if it holds anything."""
        return None if number is None else self._attempts.get((request_id, number))

    def carrying(self, job: Job) -> Attempt | None:
        """The attempt that carries ``job`` now."""
        return self.get(job.request_id, job.attempt)

    def all(self) -> tuple[Attempt, ...]:
        """All of them; a copy, so that they may end meanwhile."""
        return tuple(self._attempts.values())

    def borrower(self, lease_id: LeaseId) -> Attempt | None:
        """Who uses this lease."""
        key = self._by_lease.get(lease_id)
        return None if key is None else self._attempts.get(key)

    def recharge(self, attempt: Attempt, worker_id: WorkerId, hold: Hold) -> None:
        """Replace what the attempt holds at a worker: who refused may have room now."""
        self._ledger.exchange(worker_id, attempt.holds[worker_id], hold)
        attempt.holds[worker_id] = hold
        worker = self._registry.get(worker_id)
        if worker is not None:
            self._registry.forgive(worker)

    def discharge(self, attempt: Attempt, worker_id: WorkerId) -> None:
        """It holds nothing there any more: who refused may have room now."""
        hold = attempt.holds.pop(worker_id, None)
        if hold is None:
            return
        self._ledger.release(worker_id, hold)
        worker = self._registry.get(worker_id)
        if worker is not None:
            self._registry.forgive(worker)

    def attach(self, attempt: Attempt, lease_id: LeaseId) -> None:
        """The attempt uses this lease until it is over."""
        attempt.leases[lease_id] = None
        self._by_lease[lease_id] = attempt.key

    def detach(self, attempt: Attempt, lease_id: LeaseId) -> None:
        """It does not use it after all."""
        attempt.leases.pop(lease_id, None)
        self._by_lease.pop(lease_id, None)

    def give_leases_back(self, attempt: Attempt) -> None:
        """It needs the blocks of others no more."""
        for lease_id in tuple(attempt.leases):
            self.detach(attempt, lease_id)
            self._give_back(attempt, lease_id)

    def close(self, attempt: Attempt, after: After, now_s: float) -> None:
        """Stop it wherever it is. Closing again only changes what comes after."""
        again = attempt.after is not None
        stop = FinishWork if after is After.FINISH else DropWork
        runner = attempt.runner
        attempt.after = after
        if again:
            return
        self._timers.cancel(attempt.timer)
        for ref in attempt.present.values():
            order = stop if ref.worker_id == runner else DropWork
            self._outbox.send(ref, order(attempt.job.request_id, attempt.number))
        self._end_if_alone(attempt, now_s)

    def leave(self, attempt: Attempt, worker_id: WorkerId, now_s: float) -> None:
        """This worker touches nothing of it any more: it said so, or is dead."""
        attempt.present.pop(worker_id, None)
        self.discharge(attempt, worker_id)
        self._end_if_alone(attempt, now_s)

    def _charge(self, attempt: Attempt, worker_id: WorkerId, hold: Hold) -> None:
        attempt.holds[worker_id] = hold
        self._ledger.hold(worker_id, hold)

    def _end_if_alone(self, attempt: Attempt, now_s: float) -> None:
        if attempt.after is None or attempt.present or attempt.key not in self._attempts:
            return
        del self._attempts[attempt.key]
        if attempt.holds:
            for worker_id in tuple(attempt.holds):
                self.discharge(attempt, worker_id)
        if attempt.leases:
            self.give_leases_back(attempt)
        if attempt.after is not After.NOTHING:
            self.on_over(attempt, now_s)

    def _give_back(self, attempt: Attempt, lease_id: LeaseId) -> None:
        """Release a lease; one whose owner has not answered yet is released when it does."""
        if lease_id in attempt.asked and not self._leases.answered(lease_id):
            self._leases.orphan(lease_id)
        else:
            self._leases.release(lease_id)


def _nothing(attempt: Attempt, now_s: float) -> None:
    del attempt, now_s
