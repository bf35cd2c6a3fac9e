"""A benchmark from its settings to its result.

Knows: the order: ask the server, plan, try, load, sum up. Does not know: flags, files, terminals.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from diptych.bench import target as server
from diptych.bench.alarm import Alarm
from diptych.bench.bodies import PATHS, Bodies, Endpoint
from diptych.bench.client import HttpSender
from diptych.bench.load import ClosedLoop, Loaded, Means, OpenLoop
from diptych.bench.prompts import TokenPrompts, WordPrompts, WordScale
from diptych.bench.provenance import config_hash, origin
from diptych.bench.sample import Sample
from diptych.bench.schedule import Limits, Schedule, schedule_of
from diptych.bench.summary import Measured, Window, figures, lags, window_of
from diptych.bench.watch import REMEDY, ClientWatch, reasons_void
from diptych.domain.clock import Clock
from diptych.domain.cluster import SloSpec
from diptych.domain.errors import SpecError
from diptych.runtime.clock import MonotonicClock
from diptych.workload.record import Workload

HEAD_START_S = 0.1
"""From the moment when all is ready to the first due moment."""
PREPARED = 512
"""Bodies that are rendered before a run begins."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is asked for."""

    url: str
    endpoint: Endpoint = "completions"
    model: str | None = None
    api_key: str | None = None
    limits: Limits = field(default_factory=Limits)
    concurrency: int | None = None
    """Closed loop with so many in flight; None: open loop."""
    warmup_s: float = 0.0
    cooldown_s: float = 0.0
    slo: SloSpec = field(default_factory=SloSpec)
    seeds: tuple[int, ...] = (0,)
    """One run each, one after the other."""
    clamp: bool = False
    warm_cache: bool = False
    """Let runs meet what earlier ones left in the server's prompt cache."""
    token_ids: bool = False
    vocabulary: int | None = None
    max_model_tokens: int | None = None
    timeout_s: float = 600.0

    def as_data(self) -> dict[str, Any]:
        """All but the key."""
        plain = {**asdict(self), "slo": self.slo.model_dump(), "seeds": list(self.seeds)}
        del plain["api_key"]
        return plain


@dataclass(frozen=True)
class Progress:
    """For who watches."""

    run: int
    runs: int
    scheduled: int
    loaded: Loaded


@dataclass(frozen=True)
class Result:
    """One summary over all runs, and their samples."""

    summary: dict[str, Any]
    runs: tuple[Measured, ...]

    @property
    def void(self) -> bool:
        """Whether the client was the bottleneck."""
        return bool(self.summary["void"])

    @property
    def partial(self) -> bool:
        """Whether it was interrupted."""
        return bool(self.summary["partial"])

    @property
    def samples(self) -> list[tuple[int, Sample]]:
        """All, with their run's number."""
        return [(number, sample) for number, run in enumerate(self.runs) for sample in run.loaded.samples]


class RunClock:
    """Seconds since a moment that may lie ahead."""

    def __init__(self, clock: Clock, start_s: float) -> None:
        self._now_s = clock.now_s
        self._start_s = start_s

    def now_s(self) -> float:
        """Negative before the start."""
        return self._now_s() - self._start_s


async def run(
    settings: Settings,
    workload_of: Callable[[int], Workload],
    stop: asyncio.Event,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Result:
    """Run once for each seed; ``workload_of`` makes that seed's workload. ``stop`` ends it with what there
    is.

    Raises:
        SpecError: settings, workload and server do not fit.
        Unusable: the server does not answer.
    """
    _check(settings)
    bench = _Bench(settings, stop, on_progress)
    await bench.meet()
    runs: list[Measured] = []
    for number, seed in enumerate(settings.seeds):
        if not stop.is_set():
            runs.append(await bench.one(number, seed, workload_of(seed)))
    return Result(bench.summary(runs), tuple(runs))


def _check(settings: Settings) -> None:
    if settings.concurrency is not None and settings.limits.rate_rps is not None:
        raise SpecError("--concurrency is a closed loop, which has no --rate; give one of the two")
    if not settings.seeds:
        raise SpecError("--seeds: at least one is needed")


class _Bench:
    """Runs against one server, one after the other."""

    def __init__(
        self, settings: Settings, stop: asyncio.Event, on_progress: Callable[[Progress], None]
    ) -> None:
        self._settings = settings
        self._stop = stop
        self._on_progress = on_progress
        self._run_id = secrets.token_hex(6)
        self._watch = ClientWatch()
        self._notes: list[str] = []
        self._workloads: list[str] = []
        self._schedules: list[Schedule] = []
        self._target: server.Target | None = None
        self._scale = WordScale()

    async def meet(self) -> None:
        """Ask the server what it is, and try one request."""
        settings = self._settings
        async with self._sender(MonotonicClock()) as sender:
            self._target = await server.ask(
                sender,
                settings.url,
                model=settings.model,
                vocabulary=settings.vocabulary,
                max_model_tokens=settings.max_model_tokens,
            )
            trial = await server.attempt(sender, self._target, settings.endpoint, self._run_id)
        self._notes += trial.notes
        self._scale = trial.scale

    async def one(self, number: int, seed: int, workload: Workload) -> Measured:
        """One run."""
        settings = self._settings
        schedule = self._schedule(workload)
        bodies = self._bodies(schedule, seed, number)
        for request in schedule.requests[:PREPARED]:
            bodies.prepare(request)
        clock = RunClock(MonotonicClock(), MonotonicClock().now_s() + HEAD_START_S)

        def tell(loaded: Loaded) -> None:
            runs = len(settings.seeds)
            self._on_progress(Progress(number, runs, len(schedule.requests), loaded))

        async with self._sender(clock) as sender, self._watch.watching():
            means = Means(sender, PATHS[settings.endpoint], bodies, clock, tell)
            loaded = await self._load(schedule, means)
        return Measured(loaded, window_of(loaded, settings.warmup_s, settings.cooldown_s), seed)

    async def _load(self, schedule: Schedule, means: Means) -> Loaded:
        settings = self._settings
        duration_s = settings.limits.duration_s
        if settings.concurrency is not None:
            await asyncio.sleep(HEAD_START_S)
            return await ClosedLoop(schedule, means, settings.concurrency, duration_s).run(self._stop)
        with Alarm(means.clock) as alarm:
            return await OpenLoop(schedule, means, alarm, duration_s).run(self._stop)

    def _schedule(self, workload: Workload) -> Schedule:
        assert self._target is not None
        settings = self._settings
        longest = self._target.max_model_tokens
        schedule = schedule_of(workload, settings.limits, longest, clamp=settings.clamp)
        self._schedules.append(schedule)
        self._workloads.append(workload.name)
        return schedule

    def _bodies(self, schedule: Schedule, seed: int, number: int) -> Bodies:
        assert self._target is not None
        settings, target = self._settings, self._target
        prompts = (
            TokenPrompts(target.vocabulary, schedule.block_tokens, seed)
            if settings.endpoint == "completions"
            else WordPrompts(self._scale, schedule.block_tokens, seed)
        )
        extras = target.extras(
            f"{self._run_id}-{number}", warm_cache=settings.warm_cache, token_ids=settings.token_ids
        )
        return Bodies(settings.endpoint, target.model, prompts, extras)

    def _sender(self, clock: Clock) -> HttpSender:
        settings = self._settings
        return HttpSender(settings.url, clock, api_key=settings.api_key, timeout_s=settings.timeout_s)

    # ------------------------------------------------------------ summing up

    def summary(self, runs: list[Measured]) -> dict[str, Any]:
        """All figures; several runs are taken together, and each stands in ``runs``."""
        settings = self._settings
        closed = settings.concurrency is not None
        samples = [sample for one in runs for sample in one.loaded.samples]
        void = reasons_void(self._watch, samples)
        return {
            "mode": "closed loop (saturation only)" if closed else "open loop",
            "partial": self._stop.is_set(),
            "void": bool(void),
            "void_reasons": [*void, REMEDY] if void else [],
            **figures(runs, settings.slo, closed=closed, seed=settings.seeds[0]),
            "refused_too_long": sum(schedule.refused for schedule in self._schedules),
            "clamped": sum(schedule.clamped for schedule in self._schedules),
            "slo": settings.slo.model_dump(),
            "runs": [self._of_run(one, closed=closed) for one in runs] if len(settings.seeds) > 1 else [],
            "notes": self._notes,
            "provenance": self._provenance(runs, samples),
        }

    def _of_run(self, one: Measured, *, closed: bool) -> dict[str, Any]:
        return {"seed": one.seed, **figures([one], self._settings.slo, closed=closed, seed=one.seed)}

    def _provenance(self, runs: list[Measured], samples: list[Sample]) -> dict[str, Any]:
        assert self._target is not None
        settings = self._settings.as_data() | {"workloads": sorted(set(self._workloads))}
        return {
            **origin(("diptych", "aiohttp", "uvloop")),
            "seeds": list(self._settings.seeds),
            "config_hash": config_hash({key: settings[key] for key in settings if key != "url"}),
            "settings": settings,
            "server": self._target.as_data(),
            "vocabulary": self._target.vocabulary,
            "warmup_s": self._settings.warmup_s,
            "cooldown_s": self._settings.cooldown_s,
            "windows_s": [_ends(one.window) for one in runs],
            "schedule_lag_s": lags(samples),
            "client_cpu_share": self._watch.cpu_share,
        }


def _ends(window: Window) -> list[float]:
    return [window.start_s, window.end_s]
