"""The workers: who lives, what they last said of themselves.

Knows: incarnations, heartbeats, stats, refusals, and when silence or standing still counts as hanging.
Does not know: requests, leases, placement.
"""

from __future__ import annotations

from math import inf
from typing import Final, NamedTuple

from diptych.domain.cluster import LimitsSpec
from diptych.domain.errors import Bug
from diptych.domain.ids import WorkerId
from diptych.domain.worker import WorkerInfo, WorkerStats
from diptych.orchestration.timers import Timer, TimerKey, Timers

NO_STATS: Final = WorkerStats()


class WorkerRef(NamedTuple):
    """One incarnation of a worker."""

    worker_id: WorkerId
    incarnation: int


class Refusal(NamedTuple):
    """The worker had no room for more than this, as far as we know."""

    available_blocks: int
    until_s: float


class Worker:
    """One living incarnation."""

    __slots__ = (
        "doomed",
        "heard_s",
        "incarnation",
        "info",
        "ref",
        "refusal",
        "reported_room_blocks",
        "silent_at_s",
        "stall_timer",
        "stats",
        "stepped_s",
        "still_at_s",
        "worker_id",
    )

    def __init__(self, info: WorkerInfo, now_s: float) -> None:
        self.info = info
        self.worker_id = info.worker_id
        self.incarnation = info.incarnation
        self.ref = WorkerRef(info.worker_id, info.incarnation)
        self.stall_timer = TimerKey(Timer.STALL, info.worker_id)
        self.heard_s = now_s
        self.stepped_s = now_s
        """When its step count last rose, or when it was last idle."""
        self.silent_at_s = self.still_at_s = -inf
        """Its deadlines as they were set last. They do not move while it speaks and steps: what has moved
        them is looked up when they come."""
        self.stats = NO_STATS
        self.reported_room_blocks = info.arena.blocks
        """Blocks that a new request could have got when the stats were taken; the arena if none were."""
        self.doomed = False
        """It hangs: `KillWorker` is out, its loss will follow."""
        self.refusal: Refusal | None = None

    def take_stats(self, stats: WorkerStats) -> None:
        """Its load as it says."""
        self.stats = stats
        there = stats.free_blocks + stats.cached_blocks
        some = there + stats.held_blocks
        self.reported_room_blocks = there - stats.reserved_blocks if some else self.info.arena.blocks


class Registry:
    """All workers that live, and what is known of those that ever did.

    ``sets`` counts the changes to who may be given work; ``hopes`` counts all that may have made room for a
    request that found none before.
    """

    def __init__(self, limits: LimitsSpec, timers: Timers) -> None:
        self._limits = limits
        self._timers = timers
        self._live: dict[WorkerId, Worker] = {}
        self._known: dict[WorkerId, WorkerInfo] = {}
        self._sorted_known: tuple[WorkerInfo, ...] = ()
        self._sorted_live: tuple[Worker, ...] = ()
        self._usable: tuple[Worker, ...] = ()
        self.sets = 0
        self.hopes = 0
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
        worker = Worker(info, now_s)
        self._live[info.worker_id] = worker
        self._known[info.worker_id] = info
        self._sorted_known = tuple(self._known[worker_id] for worker_id in sorted(self._known))
        self.none_since_s = None
        self._sort()
        self.silent_too_long(worker)
        return worker

    def lose(self, ref: WorkerRef, now_s: float) -> Worker | None:
        """Forget a dead incarnation; None if it is not the living one."""
        worker = self.current(ref)
        if worker is None:
            return None
        del self._live[ref.worker_id]
        self._unwatch(worker)
        self._sort()
        self.note_absence(now_s)
        return worker

    def condemn(self, worker: Worker, now_s: float) -> None:
        """It hangs: no more work for it, no more deadlines."""
        worker.doomed = True
        self._unwatch(worker)
        self._sort()
        self.note_absence(now_s)

    def note_absence(self, now_s: float) -> None:
        """Start counting the time without any usable worker, if there is none."""
        if not self._usable and self.none_since_s is None:
            self.none_since_s = now_s

    def report(self, worker: Worker, stats: WorkerStats, now_s: float) -> None:
        """Take in its load."""
        if stats.steps != worker.stats.steps or not stats.busy or not worker.stats.busy:
            worker.stepped_s = now_s
        before = worker.reported_room_blocks
        worker.take_stats(stats)
        worker.heard_s = now_s
        if worker.reported_room_blocks > before:
            self.hopes += 1
        if worker.refusal and worker.reported_room_blocks > worker.refusal.available_blocks:
            self.forgive(worker)
        if stats.busy and not worker.doomed and worker.stall_timer not in self._timers:
            self.still_too_long(worker)

    def excuse(self, now_s: float) -> None:
        """Nobody could be heard until now: silence and standing still count from here."""
        for worker in self._sorted_live:
            worker.heard_s = worker.stepped_s = now_s

    def silent_too_long(self, worker: Worker) -> bool:
        """Asked when its deadline has come; if it has spoken since it was set, there is a later one."""
        due_s = worker.heard_s + self._limits.heartbeat_timeout_s
        if due_s <= worker.silent_at_s:
            return True
        worker.silent_at_s = due_s
        self._timers.set(TimerKey(Timer.HEARTBEAT, worker.worker_id), due_s)
        return False

    def still_too_long(self, worker: Worker) -> bool:
        """The same for the steps of a busy worker."""
        due_s = worker.stepped_s + self._limits.stall_timeout_s
        if not worker.stats.busy or due_s <= worker.still_at_s:
            return worker.stats.busy
        worker.still_at_s = due_s
        self._timers.set(worker.stall_timer, due_s)
        return False

    def refuse(self, worker: Worker, refusal: Refusal) -> None:
        """It had no room: ask for no more than that until something changes there, or some time has
        passed."""
        self.hopes += 1  # it may have more than at the refusal before
        worker.refusal = refusal
        self._timers.set(TimerKey(Timer.RETRY, worker.worker_id), refusal.until_s)

    def forgive(self, worker: Worker) -> None:
        """Something changed there: it may be asked again."""
        if worker.refusal is not None:
            self.hopes += 1
            worker.refusal = None
            self._timers.cancel(TimerKey(Timer.RETRY, worker.worker_id))

    def current(self, ref: WorkerRef) -> Worker | None:
        """The living worker of exactly this incarnation."""
        return self.living(ref.worker_id, ref.incarnation)

    def living(self, worker_id: WorkerId, incarnation: int) -> Worker | None:
        """The same."""
        worker = self._live.get(worker_id)
        return worker if worker is not None and worker.incarnation == incarnation else None

    def get(self, worker_id: WorkerId) -> Worker | None:
        """The living incarnation of this id."""
        return self._live.get(worker_id)

    def live(self) -> tuple[Worker, ...]:
        """All living workers by id."""
        return self._sorted_live

    def usable(self) -> tuple[Worker, ...]:
        """All living workers that may be given work, by id."""
        return self._usable

    def known(self) -> tuple[WorkerInfo, ...]:
        """The last incarnation of each worker that ever joined, by id."""
        return self._sorted_known

    def _sort(self) -> None:
        self.sets += 1
        self.hopes += 1
        self._sorted_live = tuple(self._live[worker_id] for worker_id in sorted(self._live))
        self._usable = tuple(worker for worker in self._sorted_live if not worker.doomed)

    def _unwatch(self, worker: Worker) -> None:
        for timer in (Timer.HEARTBEAT, Timer.STALL, Timer.RETRY):
            self._timers.cancel(TimerKey(timer, worker.worker_id))
