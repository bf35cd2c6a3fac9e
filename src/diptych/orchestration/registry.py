"""The workers: who lives, what they last said of themselves.

Knows: incarnations, heartbeats, stats, refusals, and when silence or standing still counts as hanging.
Does not know: requests, leases, placement.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from diptych.domain.cluster import LimitsSpec
from diptych.domain.errors import Bug
from diptych.domain.ids import WorkerId
from diptych.domain.worker import WorkerInfo, WorkerStats
from diptych.orchestration.timers import Timer, TimerKey, Timers


class WorkerRef(NamedTuple):
    """One incarnation of a worker."""

    worker_id: WorkerId
    incarnation: int


class Refusal(NamedTuple):
    """The worker had no room for more than this, as far as we know."""

    available_blocks: int
    until_s: float


@dataclass(slots=True)
class Worker:
    """One living incarnation."""

    info: WorkerInfo
    heard_s: float
    stepped_s: float
    """When its step count last rose, or when it was last idle."""
    stats: WorkerStats = field(default_factory=WorkerStats)
    doomed: bool = False
    """It hangs: `KillWorker` is out, its loss will follow."""
    refusal: Refusal | None = None

    @property
    def worker_id(self) -> WorkerId:
        """Its name."""
        return self.info.worker_id

    @property
    def ref(self) -> WorkerRef:
        """Its name and incarnation."""
        return WorkerRef(self.info.worker_id, self.info.incarnation)

    @property
    def reported_room_blocks(self) -> int:
        """Blocks that a new request could have got when the stats were taken; the arena if none were."""
        if not self.stats.free_blocks + self.stats.cached_blocks + self.stats.held_blocks:
            return self.info.arena.blocks
        return self.stats.free_blocks + self.stats.cached_blocks - self.stats.reserved_blocks


class Registry:
    """All workers that live, and what is known of those that ever did."""

    def __init__(self, limits: LimitsSpec, timers: Timers) -> None:
        self._limits = limits
        self._timers = timers
        self._live: dict[WorkerId, Worker] = {}
        self._known: dict[WorkerId, WorkerInfo] = {}
        self.none_since_s: float | None = None
        """Since when no worker can be given work; None while one can, or before the first event."""

    def join(self, info: WorkerInfo, now_s: float) -> Worker | None:
        """Take in an incarnation; None if it is not newer than one that is known.

        Raises `Bug` if an older incarnation of the same id has not been lost first.
        """
        known = self._known.get(info.worker_id)
        if known is not None and info.incarnation <= known.incarnation:
            return None
        if info.worker_id in self._live:
            raise Bug(f"{info.worker_id} joined again before its earlier incarnation was lost")
        worker = Worker(info, heard_s=now_s, stepped_s=now_s)
        self._live[info.worker_id] = worker
        self._known[info.worker_id] = info
        self.none_since_s = None
        self._watch(worker)
        return worker

    def lose(self, ref: WorkerRef, now_s: float) -> Worker | None:
        """Forget a dead incarnation; None if it is not the living one."""
        worker = self.current(ref)
        if worker is None:
            return None
        del self._live[ref.worker_id]
        self._unwatch(worker)
        self.note_absence(now_s)
        return worker

    def condemn(self, worker: Worker, now_s: float) -> None:
        """It hangs: no more work for it, no more deadlines."""
        worker.doomed = True
        self._unwatch(worker)
        self.note_absence(now_s)

    def note_absence(self, now_s: float) -> None:
        """Start counting the time without any usable worker, if there is none."""
        if self.none_since_s is None and not self.usable():
            self.none_since_s = now_s

    def heard(self, worker: Worker, now_s: float) -> None:
        """It said something: it lives."""
        worker.heard_s = now_s
        self._watch(worker)

    def report(self, worker: Worker, stats: WorkerStats, now_s: float) -> None:
        """Take in its load."""
        if stats.steps != worker.stats.steps or not stats.busy or not worker.stats.busy:
            worker.stepped_s = now_s
        worker.stats = stats
        if worker.refusal and worker.reported_room_blocks > worker.refusal.available_blocks:
            self.forgive(worker)
        self.heard(worker, now_s)

    def excuse(self, now_s: float) -> None:
        """Nobody could be heard until now: silence and standing still count from here."""
        for worker in self.live():
            worker.heard_s = worker.stepped_s = now_s
            self._watch(worker)

    def refuse(self, worker: Worker, refusal: Refusal) -> None:
        """It had no room: ask for no more than that until something changes there, or some time has
        passed."""
        worker.refusal = refusal
        self._timers.set(TimerKey(Timer.RETRY, worker.worker_id), refusal.until_s)

    def forgive(self, worker: Worker) -> None:
        """Something changed there: it may be asked again."""
        worker.refusal = None
        self._timers.cancel(TimerKey(Timer.RETRY, worker.worker_id))

    def current(self, ref: WorkerRef) -> Worker | None:
        """The living worker of exactly this incarnation."""
        worker = self._live.get(ref.worker_id)
        return worker if worker is not None and worker.ref == ref else None

    def get(self, worker_id: WorkerId) -> Worker | None:
        """The living incarnation of this id."""
        return self._live.get(worker_id)

    def live(self) -> tuple[Worker, ...]:
        """All living workers by id."""
        return tuple(self._live[worker_id] for worker_id in sorted(self._live))

    def usable(self) -> tuple[Worker, ...]:
        """All living workers that may be given work, by id."""
        return tuple(worker for worker in self.live() if not worker.doomed)

    def known(self) -> tuple[WorkerInfo, ...]:
        """The last incarnation of each worker that ever joined, by id."""
        return tuple(self._known[worker_id] for worker_id in sorted(self._known))

    def _watch(self, worker: Worker) -> None:
        if worker.doomed:
            return
        silent_at_s = worker.heard_s + self._limits.heartbeat_timeout_s
        self._timers.set(TimerKey(Timer.HEARTBEAT, worker.worker_id), silent_at_s)
        stall = TimerKey(Timer.STALL, worker.worker_id)
        if worker.stats.busy:
            self._timers.set(stall, worker.stepped_s + self._limits.stall_timeout_s)
        else:
            self._timers.cancel(stall)

    def _unwatch(self, worker: Worker) -> None:
        for timer in (Timer.HEARTBEAT, Timer.STALL, Timer.RETRY):
            self._timers.cancel(TimerKey(timer, worker.worker_id))
