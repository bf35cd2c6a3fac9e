"""What is lost when the workload changes and the fleet does not: regret, stranded capacity, flexibility.

Knows: rows (leaders), columns (workloads), role re-allocation of the same hardware. Does not know: how a
goodput is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diptych.domain.worker import Role
from diptych.planning.closed.stranding import RegretRow, regret_matrix, with_flexible
from diptych.planning.search.bounds import PREFILL_CHUNK, Bounds
from diptych.planning.search.candidate import Candidate
from diptych.planning.search.phases import mean_prefill_s
from diptych.planning.search.shape import Shape

FIXED_SHARES = {"30 % prefill": 0.3, "50 % prefill": 0.5, "70 % prefill": 0.7}
"""Splits that racks are sold with, for the stranding rows."""

FLEXIBLE_SHARES = (0.0, 0.1, 0.25, 0.5, 1.0)
"""Shares of role-changing workers for which the price of flexibility is told."""


@dataclass(frozen=True)
class RegretLine:
    """One fleet over all workloads."""

    name: str
    kind: str
    goodput: dict[str, float]
    """Workload → requests per second within the targets."""
    kept: dict[str, float]
    """Workload → share of what the best fleet of the same budget serves of it; 1 is no regret."""

    @property
    def worst(self) -> float:
        """What it keeps of the workload that it suits least."""
        return min(self.kept.values())


@dataclass(frozen=True)
class Flexibility:
    """A share of workers that change roles: what it keeps at worst."""

    share: float
    kept_given: float
    kept_worst: float
    source: str
    """'closed form' or 'simulated'."""


@dataclass(frozen=True)
class Regret:
    """All of it."""

    workloads: tuple[str, ...]
    lines: tuple[RegretLine, ...]
    best: dict[str, str]
    """Workload → who serves it best."""
    stranding: tuple[RegretRow, ...]
    prefill_shares: dict[str, float]
    """Workload → prefill's share of its work on the chosen hardware."""
    split_share: float | None
    """Prefill's share of the best split's chips."""
    flexibility: tuple[Flexibility, ...]


def reallocated(candidate: Candidate, bounds: Bounds) -> Candidate | None:
    """The same hardware with other roles: the counts (same engines) or the sides (different ones) that suit
    the workload of ``bounds`` best; None: nothing to change."""
    if candidate.kind != "split":
        return None
    prefill, decode = candidate.pools
    one, other = prefill.engine, decode.engine
    if one.chip == other.chip:
        step = bounds.step(candidate)
        counts = [
            (p, (candidate.chips - p * one.chips) // other.chips)
            for p in range(step, candidate.chips // one.chips + 1, step)
        ]
        tried = [bounds.of_split(one, p, other, d - d % step) for p, d in counts if d >= step]
    else:
        tried = [bounds.of_split(other, decode.workers, one, prefill.workers)]
        tried.append(bounds.of_split(one, prefill.workers, other, decode.workers))
    found = [it for it in tried if it is not None]
    return max(found, key=lambda it: it.estimate.rate_rps, default=None)


def prefill_share(candidate: Candidate, bounds: Bounds, shape: Shape) -> float:
    """Prefill's share of the chip seconds that one request of ``shape`` takes on the engines of a split, each
    phase at full load within the targets."""
    prefill = next(pool for pool in candidate.pools if pool.role in (Role.PREFILL, Role.MIXED))
    decode = next((pool for pool in candidate.pools if pool.role is Role.DECODE), prefill)
    first = mean_prefill_s(prefill.engine, PREFILL_CHUNK, shape) * prefill.engine.chips
    rate = bounds.decode(decode.engine, decode.workers).rate_rps
    if rate <= 0:
        return 1.0
    second = decode.workers * decode.engine.chips / rate
    return first / (first + second)


def split_share(candidate: Candidate) -> float:
    """Prefill's share of the chips that have one role."""
    chips = {
        role: sum(pool.workers * pool.engine.chips for pool in candidate.pools if pool.role is role)
        for role in (Role.PREFILL, Role.DECODE)
    }
    return chips[Role.PREFILL] / (chips[Role.PREFILL] + chips[Role.DECODE])


def lines_of(
    rows: Sequence[tuple[str, str]], goodput: Mapping[tuple[str, str], float], workloads: Sequence[str]
) -> tuple[tuple[RegretLine, ...], dict[str, str]]:
    """Regret lines out of goodputs by (row name, workload), and who is best at what."""
    best = {
        workload: max(rows, key=lambda row: goodput.get((row[0], workload), 0.0))[0] for workload in workloads
    }
    lines = []
    for name, kind in rows:
        served = {workload: goodput.get((name, workload), 0.0) for workload in workloads}
        kept = {
            workload: _share(rate, goodput.get((best[workload], workload), 0.0))
            for workload, rate in served.items()
        }
        lines.append(RegretLine(name, kind, served, kept))
    return tuple(lines), best


def stranding(shares: Mapping[str, float], own_split: float | None) -> tuple[RegretRow, ...]:
    """Closed form ``min(s/p, (1−s)/(1−p))``: a row for each workload's own split, for this plan's, and for
    the usual fixed ones."""
    fixed = dict(FIXED_SHARES)
    if own_split is not None:
        fixed = {f"this plan ({own_split:.0%} prefill)": own_split, **fixed}
    return tuple(regret_matrix(dict(shares), fixed))


def flexibility(
    shares: Mapping[str, float],
    given: str,
    own_split: float | None,
    lines: Sequence[RegretLine],
    mixed: float,
) -> tuple[Flexibility, ...]:
    """What each share of role-changing workers keeps. ``mixed``: the hybrid's share of mixed chips."""
    told: list[Flexibility] = []
    if own_split is not None:
        for flexible in FLEXIBLE_SHARES:
            kept = {name: with_flexible(own_split, share, flexible) for name, share in shares.items()}
            told.append(Flexibility(flexible, kept[given], min(kept.values()), "closed form"))
    for line in lines:
        share = {"split": 0.0, "hybrid": mixed, "unsplit": 1.0}.get(line.kind)
        if share is not None:
            told.append(Flexibility(share, line.kept[given], line.worst, f"simulated: {line.kind}"))
    return tuple(told)


def _share(rate: float, best: float) -> float:
    """Where nobody serves anything, nothing is lost."""
    return rate / best if best > 0 else 1.0
