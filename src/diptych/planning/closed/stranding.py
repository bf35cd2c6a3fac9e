"""What a fixed split wastes when the mix changes: the regret matrix, and the price of flexible workers.

Knows: shares of work. Does not know: what gives them (`diptych.workload.shares` measures them). Equations:
latency model §9 and T11.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from diptych.domain.errors import SpecError
from diptych.planning.closed.checks import share
from diptych.workload.shares import relative_throughput


@dataclass(frozen=True, slots=True)
class RegretRow:
    """One split, and what it keeps of each workload's own best split."""

    sized_for: str
    prefill_share: float
    kept: dict[str, float]
    """Served workload → throughput relative to that workload's ideal split."""

    @property
    def worst(self) -> float:
        """What it keeps of the workload that it suits least."""
        return min(self.kept.values())


def regret_matrix(shares: Mapping[str, float], fixed: Mapping[str, float] | None = None) -> list[RegretRow]:
    """One row for the ideal split of each workload, then one for each ``fixed`` split.

    ``shares``: workload → prefill's share of its work, from 0 to 1.
    """
    if not shares:
        raise SpecError("shares: no workload is given; give at least one")
    splits = {**shares, **(fixed or {})}
    return [
        RegretRow(name, split, {served: relative_throughput(split, p) for served, p in shares.items()})
        for name, split in splits.items()
    ]


def with_flexible(split: float, served: float, flexible: float) -> float:
    """Throughput relative to the ideal split where a share of all machines may take either role.

    ``split`` is prefill's share of the machines that are fixed. The flexible ones fill the gap: at
    throughput x the
    phases need ``x·p`` and ``x·(1−p)`` machines, so x is the most that fixed and flexible ones cover.
    """
    share(split=split, served=served, flexible=flexible)
    fixed = 1 - flexible
    caps = [1.0]
    if served > 0:
        caps.append((fixed * split + flexible) / served)
    if served < 1:
        caps.append((fixed * (1 - split) + flexible) / (1 - served))
    return min(caps)


def flexible_needed(split: float, served: float, wanted: float) -> float:
    """The least flexible share with which the fleet keeps ``wanted`` of the ideal (0 if it does anyway)."""
    share(split=split, served=served, wanted=wanted)
    needs = [0.0]
    for have, need in ((split, served), (1 - split, 1 - served)):
        # (1−f)·have + f ≥ wanted·need
        if have < 1:
            needs.append((wanted * need - have) / (1 - have))
    return max(needs)
