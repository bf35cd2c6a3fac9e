"""How many requests a phase can take: closed forms for a prefill pool, a decode pool and a chunked mixed
pool.

Knows: the latency model's composition (§5), admission (§7) and queueing (§9). Does not know: budgets, which
pools belong together. What it says is an estimate: it ranks candidates and prunes them, simulation decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, sqrt

from diptych.performance.steps import Chunk
from diptych.planning.search.engine import MOST_RUNNING, Engine
from diptych.planning.search.queueing import below, share_in_time
from diptych.planning.search.shape import Row, Shape
from diptych.planning.search.targets import Targets

HALVINGS = 16
"""Steps of a bisection over a rate: to 1/65536 of where it starts."""

KV_FILL = 0.97
"""Share of the KV memory that sequences can really hold; the rest is in partly filled blocks."""


@dataclass(frozen=True)
class Capacity:
    """The most that one pool can take, and what stops it."""

    rate_rps: float
    binds: str


NOTHING = Capacity(0.0, "nothing meets the targets")


def highest(good: Callable[[float], bool], top: float) -> float:
    """The largest value in [0, ``top``] that is ``good``, if all below it are."""
    if top <= 0:
        return 0.0
    low, high = 0.0, top
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if good(middle):
            low = middle
        else:
            high = middle
    return low


# ---------------------------------------------------------------- prefill pools


def prefill_capacity(
    engine: Engine, workers: int, chunk_tokens: int, shape: Shape, targets: Targets, share: float
) -> Capacity:
    """The highest rate at which ``share`` of the prompts are through within the TTFT target: a queue with
    ``workers`` servers."""
    services = [engine.prefill_s(row.new_tokens, row.cached_tokens, chunk_tokens) for row in shape.rows]
    limits = [targets.ttft_s] * len(services)
    in_time = sum(s <= targets.ttft_s for s in services) / len(services)
    if in_time < share:
        return Capacity(0.0, "prefill of long prompts alone exceeds the TTFT target")
    top = workers * len(services) / sum(services)
    rate = highest(
        lambda rate: share_in_time(services, limits, workers, rate, shape.burstiness) >= share, top
    )
    return Capacity(rate, "prefill FLOP")


def mean_prefill_s(engine: Engine, chunk_tokens: int, shape: Shape) -> float:
    """Mean service of a prompt."""
    rows = shape.rows
    return sum(engine.prefill_s(row.new_tokens, row.cached_tokens, chunk_tokens) for row in rows) / len(rows)


# ---------------------------------------------------------------- decode pools


def decode_capacity(
    engine: Engine, workers: int, shape: Shape, targets: Targets, share: float, exposed_s: float = 0.0
) -> Capacity:
    """The highest rate at which ``share`` of the requests keep the TPOT target and find KV memory.

    The batch B solves B = λ·E[output]·step(B). The number in the system is taken for Poisson around it,
    balanced over the workers; a request sees its mean over its own residence. ``exposed_s`` of KV transfer
    is inside the first gap."""
    context = shape.context_tokens
    most = engine.steps.kv_tokens * KV_FILL / shape.resident_tokens
    fit = _largest_batch(engine, context, targets.tpot_s)
    if fit <= 0 or most < 1:
        return NOTHING if fit <= 0 else Capacity(0.0, "decode KV")

    def tpot_good(batch: float) -> bool:
        step_s = engine.decode_s(batch, context)
        return _decode_share(shape, batch, fit, workers, step_s, targets, exposed_s) >= share

    by_tpot = highest(tpot_good, min(fit, float(MOST_RUNNING)))
    by_kv = highest(lambda batch: _finds_memory(shape, batch, most, workers) >= share, min(most, 4 * fit))
    batch = min(by_tpot, by_kv)
    if batch <= 0:
        return Capacity(0.0, "decode bandwidth" if by_tpot <= by_kv else "decode KV")
    return Capacity(
        workers * _decode_rate(engine, shape, batch), "decode bandwidth" if by_tpot <= by_kv else "decode KV"
    )


def _decode_rate(engine: Engine, shape: Shape, batch: float) -> float:
    """λ of one worker whose mean batch this is. Below one sequence the worker idles part of the time."""
    return batch / (shape.output_tokens * engine.decode_s(max(1.0, batch), shape.context_tokens))


def _largest_batch(engine: Engine, context: float, tpot_s: float) -> float:
    """The largest batch whose step keeps the target, by bisection; 0: not even one sequence does."""
    if engine.decode_s(1, context) > tpot_s:
        return 0.0
    low, high = 1.0, 2.0
    while high < MOST_RUNNING and engine.decode_s(high, context) <= tpot_s:
        low, high = high, high * 2
    high = min(high, float(MOST_RUNNING))
    if engine.decode_s(high, context) <= tpot_s:
        return high
    for _ in range(10):
        middle = (low + high) / 2
        if engine.decode_s(middle, context) <= tpot_s:
            low = middle
        else:
            high = middle
    return low


def _decode_share(
    shape: Shape, batch: float, fit: float, workers: int, step_s: float, targets: Targets, exposed_s: float
) -> float:
    total = 0.0
    for row in shape.rows:
        gaps = max(1, row.output_tokens - 1)
        allowed = fit * max(0.0, 1.0 - exposed_s / (gaps * targets.tpot_s))
        stay = gaps / shape.output_tokens
        deviation = sqrt(max(batch, 0.25) * _averaging(stay) / workers)
        total += below((allowed + 0.5 - batch) / deviation) if step_s > 0 else 1.0
    return total / len(shape.rows)


def _averaging(stay: float) -> float:
    """Variance of a mean over ``stay`` correlation times, over the variance at one instant, for correlation
    that decays exponentially: ``2(r − 1 + e^{−r})/r²``."""
    if stay < 1e-3:
        return 1.0
    return 2.0 * (stay - 1.0 + exp(-stay)) / (stay * stay)


def _finds_memory(shape: Shape, batch: float, most: float, workers: int) -> float:
    deviation = sqrt(max(batch, 0.25) * (1.0 + shape.resident_variation) / workers)
    return below((most - batch) / deviation)


# ---------------------------------------------------------------- chunked mixed pools


def mixed_capacity(
    engine: Engine, workers: int, chunk_tokens: int, shape: Shape, targets: Targets, share: float
) -> Capacity:
    """The highest rate of workers that do both, prompts in chunks beside the decodes.

    A step over B decodes takes s_d(B), with a full chunk s_m(B). Each request brings k = new/(chunk − B)
    chunk steps, so the rate that holds a mean batch B is ``(B/s_d) / (output + B·k·(s_m/s_d − 1))``."""
    most = min(
        engine.steps.kv_tokens * KV_FILL / shape.resident_tokens,
        float(min(MOST_RUNNING, chunk_tokens)),
        0.9 * chunk_tokens,
    )
    if most < 1:
        return Capacity(0.0, "decode KV")
    state = _Mixed(engine, workers, chunk_tokens, shape, targets)
    batch = highest(lambda batch: state.share(batch) >= share, most)
    if batch <= 0:
        return Capacity(0.0, state.weakest(0.5))
    rate, _ = state.rate(batch)
    binds = "decode KV" if batch > 0.98 * most else state.weakest(batch)
    return Capacity(workers * rate, binds)


class _Mixed:
    """One chunked worker among ``workers`` at a mean batch."""

    def __init__(
        self, engine: Engine, workers: int, chunk_tokens: int, shape: Shape, targets: Targets
    ) -> None:
        self._engine = engine
        self._workers = workers
        self._chunk = chunk_tokens
        self._shape = shape
        self._targets = targets
        rows = shape.rows
        self._cached = sum((r.cached_tokens + r.new_tokens / 2) * r.new_tokens for r in rows) / max(
            1.0, sum(r.new_tokens for r in rows)
        )

    def rate(self, batch: float) -> tuple[float, float]:
        """(λ of one worker, share of its time in chunk steps)."""
        decode_s, mixed_s, room = self._steps(batch)
        chunks = self._shape.new_tokens / room
        rate = (batch / decode_s) / (self._shape.output_tokens + batch * chunks * (mixed_s / decode_s - 1.0))
        return rate, rate * chunks * mixed_s

    def share(self, batch: float) -> float:
        """Share of the requests that meet both targets."""
        ttft, tpot, memory = self._shares(batch)
        return ttft * tpot * memory

    def weakest(self, batch: float) -> str:
        """What spoils most at a batch just above the best."""
        ttft, tpot, memory = self._shares(batch * 1.1)
        least = min(ttft, tpot, memory)
        if least == memory:
            return "decode KV"
        return "prefill FLOP" if least == ttft else "decode bandwidth"

    def _steps(self, batch: float) -> tuple[float, float, float]:
        """(decode step, step with a full chunk, tokens of that chunk)."""
        whole = max(1, round(batch))
        context = self._shape.context_tokens
        room = max(1.0, self._chunk - batch)
        mean = max(1, min(round(room), self._most_new()))
        decode_s = self._engine.decode_s(max(1.0, batch), context)
        held = round(whole * context)
        part_s = self._engine.steps.step_s([Chunk(mean, round(self._cached))], whole, held)
        return decode_s, max(part_s, decode_s), float(mean)

    def _most_new(self) -> int:
        """A chunk is never larger than a few prompts together."""
        return max(1, round(4 * self._shape.new_tokens))

    def _shares(self, batch: float) -> tuple[float, float, float]:
        decode_s, mixed_s, room = self._steps(batch)
        rate, busy = self.rate(batch)
        if busy >= 1.0:
            return 0.0, 0.0, 1.0
        services = [row.new_tokens / room * mixed_s for row in self._shape.rows]
        limits = [self._targets.ttft_s] * len(services)
        ttft = share_in_time(services, limits, self._workers, rate * self._workers, self._shape.burstiness)
        chunk_share = self._chunk_share(rate, busy, room, decode_s)
        tpot = sum(
            self._keeps_tpot(row, chunk_share, room, decode_s, mixed_s) for row in self._shape.rows
        ) / len(self._shape.rows)
        most = self._engine.steps.kv_tokens * KV_FILL / self._shape.resident_tokens
        return ttft, tpot, _finds_memory(self._shape, batch, most, self._workers)

    def _chunk_share(self, rate: float, busy: float, room: float, decode_s: float) -> float:
        """Share of the steps that carry a chunk."""
        chunk_steps = rate * self._shape.new_tokens / room
        plain_steps = (1.0 - busy) / decode_s
        return chunk_steps / (chunk_steps + plain_steps)

    def _keeps_tpot(
        self, row: Row, chunk_share: float, room: float, decode_s: float, mixed_s: float
    ) -> float:
        """Chunk steps come in runs, one for each prompt: their number among a request's steps is taken for
        normal with the variance of such runs."""
        gaps = max(1, row.output_tokens - 1)
        if mixed_s <= decode_s * (1 + 1e-9):
            return 1.0 if decode_s <= self._targets.tpot_s else 0.0
        allowed = gaps * (self._targets.tpot_s - decode_s) / (mixed_s - decode_s)
        if allowed >= gaps:
            return 1.0
        run = max(1.0, self._shape.new_tokens / room)
        variance = gaps * chunk_share * (1.0 - chunk_share) * run + 0.25
        return below((allowed - gaps * chunk_share) / sqrt(variance))
