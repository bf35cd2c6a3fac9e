"""Stage one of the search: thousands of candidates by closed forms, of which a few go on to simulation.

Knows: engines, a budget, how counts follow from rates. Does not know: how a goodput is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import gcd

from diptych.domain.fleet import LinkSpec
from diptych.domain.worker import Role
from diptych.planning.search.candidate import Candidate, PoolPlan
from diptych.planning.search.engine import Engine
from diptych.planning.search.links import exposed_s, link_between, link_rate
from diptych.planning.search.phases import (
    Capacity,
    decode_capacity,
    mean_prefill_s,
    mixed_capacity,
    prefill_capacity,
)
from diptych.planning.search.shape import Shape
from diptych.planning.search.targets import Budget, Targets

CHUNKS = (256, 512, 1024, 2048, 4096, 8192)
"""Chunk sizes tried for mixed workers: from strict to relaxed gaps between tokens."""

PREFILL_CHUNK = 8192
"""Tokens of a step of a prefill-only worker. Nothing decodes beside it, so that only efficiency counts."""

DECODE_CHUNK = 512
"""Token budget of a decode-only worker: as many sequences as one step may have."""

MOST_WORKERS = 256
"""Of one pool, as a spec allows."""

LEFT_OVER = 0.04
"""Share of a budget that may be left over so that a fleet consists of equal parts."""

KEPT_PREFILL, KEPT_DECODE = 2, 3
"""Engines of each kind of chip that go on to pairing, best per unit of budget first."""


LINK_BLAME = 0.8
"""If a free link would raise decode's rate beyond 1/0.8 of what it is, the link binds and not decode."""

EVEN = 0.5
POWERS = (0.5, 0.15, 0.95)
"""How the allowed misses are divided: evenly, nearly all to decode, nearly all to prefill (whose long
prompts may be hopeless in themselves)."""


@dataclass(frozen=True)
class Question:
    """What the closed forms are asked about."""

    shape: Shape
    targets: Targets
    budget: Budget
    link_bytes_per_s: float | None = None
    """Given by the user; None: the ports of the chips."""


class Bounds:
    """Capacities by closed forms, each computed once."""

    def __init__(self, engines: Sequence[Engine], question: Question, grain: int = 1) -> None:
        """``grain``: fleets consist of so many equal parts, of which one can be simulated."""
        self.engines = tuple(engines)
        self.grain = grain
        self.question = question
        self._known: dict[tuple[object, ...], Capacity] = {}

    # ------------------------------------------------------------ one pool

    def prefill(self, engine: Engine, workers: int, power: float = EVEN) -> Capacity:
        """Of a pool that only prefills. Both phases have to keep their target, so each must do better than
        the share: ``share^power``, and decode ``share^(1 − power)``."""
        key = ("prefill", id(engine), workers, power)
        known = self._known.get(key)
        if known is None:
            shape, targets = self.question.shape, self.question.targets
            known = prefill_capacity(engine, workers, PREFILL_CHUNK, shape, targets, targets.share**power)
            self._known[key] = known
        return known

    def decode(self, engine: Engine, workers: int, power: float = EVEN, exposed_s: float = 0.0) -> Capacity:
        """Of a pool that only decodes; ``exposed_s`` of each handoff falls into the first gap."""
        key = ("decode", id(engine), workers, power, exposed_s)
        known = self._known.get(key)
        if known is None:
            shape, targets = self.question.shape, self.question.targets
            share = targets.share ** (1.0 - power)
            known = decode_capacity(engine, workers, shape, targets, share, exposed_s)
            self._known[key] = known
        return known

    def mixed(self, engine: Engine, workers: int, chunk_tokens: int) -> Capacity:
        """Of a pool that does both."""
        key = ("mixed", id(engine), workers, chunk_tokens)
        known = self._known.get(key)
        if known is None:
            shape, targets = self.question.shape, self.question.targets
            known = mixed_capacity(engine, workers, chunk_tokens, shape, targets, targets.share)
            self._known[key] = known
        return known

    # ------------------------------------------------------------ budgets

    def most(self, engine: Engine, left: float | None = None) -> int:
        """Engines that the budget, or what is left of it, pays for."""
        amount = engine.amount(self.question.budget.unit)
        if amount is None or amount <= 0:
            return 0
        limit = self.question.budget.limit if left is None else left
        return min(MOST_WORKERS, int(limit / amount + 1e-9))

    def _grains(self) -> Iterator[int]:
        """The grain, its half and so on, down to 1."""
        grain = self.grain
        while grain >= 1:
            yield grain
            grain //= 2

    def step(self, candidate: Candidate) -> int:
        """Workers that change roles together: as many as leave a fleet of equal parts what it is."""
        return gcd(self.grain, *(pool.workers for pool in candidate.pools))

    def _all(self, engine: Engine) -> int:
        """As many as the budget pays for, in as large multiples as leave next to nothing of it over."""
        most = self.most(engine)
        counts = (rounded_down(most, grain) for grain in self._grains())
        return next(count for count in counts if count >= (1 - LEFT_OVER) * most)

    def spent(self, engine: Engine, workers: int) -> float:
        """What so many take out of the budget."""
        return workers * (engine.amount(self.question.budget.unit) or 0.0)

    # ------------------------------------------------------------ whole candidates

    def unsplit(self) -> list[Candidate]:
        """Every engine with every chunk size, as many as the budget pays for; best first."""
        found = [
            self.of_mixed(engine, self._all(engine), chunk)
            for engine in self.engines
            if self.most(engine) and engine.uncapped is None
            for chunk in CHUNKS
        ]
        return ranked(found)

    def of_mixed(self, engine: Engine, workers: int, chunk: int) -> Candidate:
        """One mixed pool."""
        return Candidate((PoolPlan(engine, Role.MIXED, workers, chunk),), self.mixed(engine, workers, chunk))

    def best_chunk(self, engine: Engine, workers: int) -> int:
        """The chunk size that suits this pool best."""
        return max(CHUNKS, key=lambda chunk: self.mixed(engine, workers, chunk).rate_rps)

    def splits(self, each: int = 1) -> list[Candidate]:
        """The best counts (and ``each`` - 1 more) of each pair of engines; best first."""
        able = [engine for engine in self.engines if engine.uncapped is None]
        prefills = self._shortlist(able, KEPT_PREFILL, self._prefill_worth)
        decodes = self._shortlist(self.engines, KEPT_DECODE, self._decode_worth)
        found: list[Candidate] = []
        for prefill in prefills:
            for decode in decodes:
                pairs = [self.of_split(prefill, p, decode, d) for p, d in self.counts(prefill, decode)]
                found.extend(ranked([pair for pair in pairs if pair is not None])[:each])
        return ranked(found)

    def counts(self, prefill: Engine, decode: Engine) -> list[tuple[int, int]]:
        """Counts around the point where both pools take the same rate, the budget used up."""
        if (
            prefill.chip != decode.chip
            and link_between(prefill, decode, self.question.link_bytes_per_s) is None
        ):
            return []
        most = self.most(prefill, self.question.budget.limit - self.spent(decode, 1))
        if most < 1:
            return []
        low, high = 1, most
        while low < high:
            middle = (low + high) // 2
            d = self._rest(prefill, middle, decode)
            if self._prefill_any(prefill, middle) < self.decode(decode, d).rate_rps:
                low = middle + 1
            else:
                high = middle
        around = sorted({max(1, low + step * self.grain) for step in (-1, 0, 1)})
        return list(dict.fromkeys(self._pair(prefill, p, decode) for p in around if p <= most))

    def _pair(self, prefill: Engine, workers: int, decode: Engine) -> tuple[int, int]:
        """Counts in as large multiples as use the budget. What is left after both goes to prefill, if it is
        enough for more."""
        limit = self.question.budget.limit
        pairs: list[tuple[int, int]] = []
        for grain in self._grains():
            p = max(1, rounded_down(workers, grain))
            d = max(1, rounded_down(self._rest(prefill, p, decode), grain))
            p = max(1, rounded_down(self.most(prefill, limit - self.spent(decode, d)), grain))
            pairs.append((p, d))
        spent = [self.spent(prefill, p) + self.spent(decode, d) for p, d in pairs]
        return next(
            pair for pair, used in zip(pairs, spent, strict=True) if used >= (1 - LEFT_OVER) * spent[-1]
        )

    def _prefill_any(self, engine: Engine, workers: int) -> float:
        """With as many misses as the targets allow, if an even share of them is hopeless."""
        even = self.prefill(engine, workers).rate_rps
        return even if even > 0 else self.prefill(engine, workers, POWERS[-1]).rate_rps

    def _rest(self, prefill: Engine, workers: int, decode: Engine) -> int:
        return max(1, self.most(decode, self.question.budget.limit - self.spent(prefill, workers)))

    def of_split(self, prefill: Engine, p: int, decode: Engine, d: int) -> Candidate | None:
        """One pool for each phase; None: nothing is known of a path between them."""
        link = link_between(prefill, decode, self.question.link_bytes_per_s)
        if link is None:
            return None
        capacity = self.split_capacity(prefill, p, decode, d, link)
        return Candidate(
            (
                PoolPlan(prefill, Role.PREFILL, p, PREFILL_CHUNK),
                PoolPlan(decode, Role.DECODE, d, DECODE_CHUNK),
            ),
            capacity,
            link,
        )

    def split_capacity(self, prefill: Engine, p: int, decode: Engine, d: int, link: LinkSpec) -> Capacity:
        """The least of prefill, decode with what the link leaves exposed, and the link's ports; the allowed
        misses are divided as suits best."""
        shape = self.question.shape
        size = shape.input_tokens * prefill.kv_token_bytes
        service_s = mean_prefill_s(prefill, PREFILL_CHUNK, shape)
        gap_s = round(exposed_s(link, prefill.layers, size, service_s), 9)
        ports = Capacity(link_rate(link, p, d, size), "link")
        tried: list[Capacity] = []
        for power in POWERS:
            decoding = self.decode(decode, d, power, gap_s)
            if decoding.rate_rps < LINK_BLAME * self.decode(decode, d, power).rate_rps:
                decoding = Capacity(decoding.rate_rps, "link")
            parts = (self.prefill(prefill, p, power), decoding, ports)
            tried.append(min(parts, key=lambda part: part.rate_rps))
        return max(tried, key=lambda it: it.rate_rps)

    def hybrids(self, splits: Sequence[Candidate]) -> list[Candidate]:
        """The hardware of ``splits`` with some workers of either pool turned into mixed ones; best first."""
        found: list[Candidate] = []
        for split in splits:
            prefill, decode = split.pools
            for taken, pool in ((0, prefill), (1, decode)):
                step = self.step(split)
                for mixed in range(step, pool.workers, step):
                    found.extend(self._hybrid(split, taken, mixed))
        return ranked(found)

    def _hybrid(self, split: Candidate, taken: int, mixed: int) -> Iterable[Candidate]:
        prefill, decode = split.pools
        engine = split.pools[taken].engine
        if engine.uncapped is not None:
            return
        p, d = prefill.workers - mixed * (taken == 0), decode.workers - mixed * (taken == 1)
        if p < 1 or d < 1 or split.link is None:
            return
        chunk = self.best_chunk(engine, mixed)
        both = self.split_capacity(prefill.engine, p, decode.engine, d, split.link)
        helped = self.mixed(engine, mixed, chunk)
        pools = (
            PoolPlan(prefill.engine, Role.PREFILL, p, PREFILL_CHUNK),
            PoolPlan(decode.engine, Role.DECODE, d, DECODE_CHUNK),
            PoolPlan(engine, Role.MIXED, mixed, chunk),
        )
        yield Candidate(pools, Capacity(both.rate_rps + helped.rate_rps, both.binds), split.link)

    def unsplit_hardware(self, candidate: Candidate) -> Candidate:
        """All engines of a candidate as mixed ones with their best chunk sizes: the equal-hardware
        baseline."""
        counts: dict[int, tuple[Engine, int]] = {}
        for pool in candidate.pools:
            own = pool.engine.uncapped or pool.engine
            engine, before = counts.get(id(own), (own, 0))
            counts[id(own)] = (engine, before + pool.workers)
        pools = tuple(
            PoolPlan(engine, Role.MIXED, n, self.best_chunk(engine, n)) for engine, n in counts.values()
        )
        rates = [self.mixed(pool.engine, pool.workers, pool.chunk_tokens) for pool in pools]
        return Candidate(pools, Capacity(sum(rate.rate_rps for rate in rates), rates[0].binds))

    def estimate(self, candidate: Candidate) -> Capacity:
        """Of a candidate that was made for another question: its pools stay as they are."""
        parts = [
            self.mixed(pool.engine, pool.workers, pool.chunk_tokens)
            for pool in candidate.pools
            if pool.role is Role.MIXED
        ]
        prefill = next((pool for pool in candidate.pools if pool.role is Role.PREFILL), None)
        decode = next((pool for pool in candidate.pools if pool.role is Role.DECODE), None)
        if prefill is not None and decode is not None and candidate.link is not None:
            both = self.split_capacity(
                prefill.engine, prefill.workers, decode.engine, decode.workers, candidate.link
            )
            parts.insert(0, both)
        return Capacity(sum(part.rate_rps for part in parts), parts[0].binds)

    # ------------------------------------------------------------ pruning

    def _shortlist(
        self, engines: Sequence[Engine], each: int, worth: Callable[[Engine], float]
    ) -> list[Engine]:
        """The best engines of each kind of chip."""
        kinds: dict[str, list[tuple[float, Engine]]] = {}
        for engine in engines:
            if self.most(engine):
                kinds.setdefault(engine.chip, []).append((worth(engine), engine))
        return [
            engine
            for rated in kinds.values()
            for value, engine in sorted(rated, key=lambda pair: -pair[0])[:each]
            if value > 0
        ]

    def _prefill_worth(self, engine: Engine) -> float:
        return self._worth(engine, self._prefill_any)

    def _decode_worth(self, engine: Engine) -> float:
        return self._worth(engine, lambda it, workers: self.decode(it, workers).rate_rps)

    def _worth(self, engine: Engine, rate: Callable[[Engine, int], float]) -> float:
        """Rate per unit of budget when half of it goes to this phase."""
        workers = max(1, self.most(engine, self.question.budget.limit / 2))
        return rate(engine, workers) / self.spent(engine, workers)


def rounded_down(workers: int, grain: int) -> int:
    """Counts from ``grain`` on to a multiple of it."""
    return workers - workers % grain if workers >= grain else workers


def ranked(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Best first; equal ones by name, so that the order never depends on chance."""
    return sorted(candidates, key=lambda it: (-it.estimate.rate_rps, it.name))
