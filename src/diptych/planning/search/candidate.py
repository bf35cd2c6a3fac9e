"""One way to spend the budget: pools of engines, and the cluster spec that runs them.

Knows: kinds of candidates, sums over all their hardware. Does not know: how good they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diptych.domain.cluster import ClusterSpec, KVSpec, LimitsSpec, ModelSpec, SloSpec
from diptych.domain.fleet import LinkSpec
from diptych.domain.worker import Role
from diptych.planning.search.engine import Engine
from diptych.planning.search.phases import Capacity
from diptych.planning.search.targets import BudgetUnit, Targets

Kind = Literal["unsplit", "split", "hybrid"]

BACKLOG_CHUNKS = 2
"""A prefill worker with more waiting than so many chunks gets nothing further: requests are bound late."""


@dataclass(frozen=True)
class PoolPlan:
    """``workers`` equal engines in one role."""

    engine: Engine
    role: Role
    workers: int
    chunk_tokens: int

    @property
    def words(self) -> str:
        """Such as ``2 × H100-SXM TP4 prefill``."""
        chunk = f", chunk {self.chunk_tokens:,}" if self.role is Role.MIXED else ""
        return f"{self.workers} × {self.engine.name} {self.role.value}{chunk}"


@dataclass(frozen=True)
class Candidate:
    """All pools together. A split's pools are joined by ``link``."""

    pools: tuple[PoolPlan, ...]
    estimate: Capacity
    link: LinkSpec | None = None

    @property
    def kind(self) -> Kind:
        """By the roles of the pools."""
        roles = {pool.role for pool in self.pools}
        if roles == {Role.MIXED}:
            return "unsplit"
        return "hybrid" if Role.MIXED in roles else "split"

    @property
    def name(self) -> str:
        """All pools in words; equal names are equal candidates."""
        return " + ".join(pool.words for pool in self.pools)

    @property
    def chips(self) -> int:
        """All of them."""
        return sum(pool.workers * pool.engine.chips for pool in self.pools)

    def amount(self, unit: BudgetUnit) -> float | None:
        """What the whole candidate takes out of a budget; None if that is not known of a part."""
        amounts = [pool.engine.amount(unit) for pool in self.pools]
        if any(amount is None for amount in amounts):
            return None
        return sum(
            pool.workers * amount
            for pool, amount in zip(self.pools, amounts, strict=True)
            if amount is not None
        )

    def workers(self, role: Role) -> int:
        """Of one role."""
        return sum(pool.workers for pool in self.pools if pool.role is role)


@dataclass(frozen=True)
class Serving:
    """What all candidates of a plan have in common."""

    model: str
    targets: Targets
    block_tokens: int
    prompt_cache: bool


def cluster_of(candidate: Candidate, serving: Serving) -> ClusterSpec:
    """The spec that `diptych simulate` and `diptych serve --engine modelled` run."""
    counts: dict[str, int] = {}
    pools = []
    for pool in candidate.pools:
        counts[pool.role.value] = counts.get(pool.role.value, 0) + 1
        name = (
            pool.role.value if counts[pool.role.value] == 1 else f"{pool.role.value}{counts[pool.role.value]}"
        )
        pools.append(pool.engine.pool(name, pool.role, pool.workers, pool.chunk_tokens))
    backlog = max(
        BACKLOG_CHUNKS * pool.chunk_tokens for pool in candidate.pools if pool.role is not Role.DECODE
    )
    return ClusterSpec(
        model=ModelSpec(path=serving.model),
        pools=tuple(pools),
        kv=KVSpec(block_tokens=serving.block_tokens, prompt_cache=serving.prompt_cache),
        limits=LimitsSpec(prefill_backlog_tokens=backlog),
        slo=SloSpec(ttft_s=serving.targets.ttft_s, tpot_s=serving.targets.tpot_s),
        link=candidate.link,
    )
