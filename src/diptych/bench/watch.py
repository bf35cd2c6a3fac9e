"""Is the client itself the bottleneck?

Knows: what this process used of the processor, how late its event loop and its requests were. Does not know:
the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from diptych.bench.quantiles import quantile
from diptych.bench.sample import Sample

POLL_S = 0.02

MOST_CPU = 0.85
"""Share of one core from which on a loop of one thread answers late: queueing theory's usual knee."""
LATE_LIMITS = ((0.5, 0.02, 0.0015), (0.9, 0.10, 0.005))
"""(quantile of the client's own lateness, most of it as a share of the median TTFT, seconds that are never
held
against it). Medians are then right to 2 %, and nine requests of ten to 10 %; the seconds are what timers and
wake-ups of an ordinary kernel take."""

REMEDY = (
    "give the client cores of its own (taskset), lower the rate, or split the workload over several clients"
)


@dataclass
class ClientWatch:
    """Filled while a load runs."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    loop_late_s: list[float] = field(default_factory=list)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Watch as long as the block runs."""
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        task = asyncio.create_task(self._poll())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self.wall_s += time.perf_counter() - start_s
            self.cpu_s += time.process_time() - start_cpu_s

    @property
    def cpu_share(self) -> float:
        """Of one core."""
        return self.cpu_s / self.wall_s if self.wall_s > 0 else 0.0

    async def _poll(self) -> None:
        while True:
            asked_s = time.perf_counter()
            await asyncio.sleep(POLL_S)
            self.loop_late_s.append(max(0.0, time.perf_counter() - asked_s - POLL_S))


def reasons_void(watch: ClientWatch, samples: Sequence[Sample]) -> list[str]:
    """Why figures say more of the client than of the server; none if they do not."""
    reasons: list[str] = []
    if watch.cpu_share > MOST_CPU:
        reasons.append(f"the client used {watch.cpu_share:.0%} of one core (limit {MOST_CPU:.0%})")
    ttfts = sorted(sample.ttft_s for sample in samples if sample.ttft_s is not None)
    typical_s = quantile(ttfts, 0.5) if ttfts else 0.0
    late = {
        "requests left": sorted(sample.lag_s for sample in samples if sample.lag_s is not None),
        "the client's event loop ran": sorted(watch.loop_late_s),
    }
    return reasons + [reason for what, lags in late.items() if (reason := _late(what, lags, typical_s))]


def _late(what: str, lags: Sequence[float], typical_s: float) -> str | None:
    """The first limit that is passed."""
    for share, part, floor_s in LATE_LIMITS if lags else ():
        late_s, limit_s = quantile(lags, share), max(floor_s, part * typical_s)
        if late_s > limit_s:
            return f"{what} {late_s * 1e3:.1f} ms late at p{share * 100:.0f} (limit {limit_s * 1e3:.1f} ms)"
    return None
