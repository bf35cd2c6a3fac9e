"""Where should this request run? Drop who can not, look at the others, score the pairs, pick.

Knows: a pair is as good as its prefill worker and its decode worker are, so workers are looked at, not pairs.
Every placement keeps what was seen (`explain` tells it by pairs). Does not know: how a placement is carried
out.
"""

from __future__ import annotations

from typing import NamedTuple

from diptych.domain.cluster import SloSpec
from diptych.domain.report import Considered, Placement
from diptych.orchestration import filters
from diptych.orchestration.choosing import Choice, choose
from diptych.orchestration.jobs import Job
from diptych.orchestration.looking import Look, Obstructions
from diptych.orchestration.needs import Need
from diptych.orchestration.pairs import Pair
from diptych.orchestration.parts import Parts
from diptych.orchestration.reasons import Obstacle, obstacle_of
from diptych.orchestration.seats import Floor


class Plan(NamedTuple):
    """The decision: the pair, and the placement that explains it."""

    pair: Pair
    placement: Placement


class Router:
    """Answers `route`; changes nothing."""

    def __init__(self, parts: Parts, slo: SloSpec) -> None:
        self._registry = parts.registry
        self._ledger = parts.ledger
        self._index = parts.prefixes
        self._limits = parts.limits
        self._cost = parts.cost
        self._slo = slo
        self._floor = Floor.of((), parts.ledger)
        self._floor_of = parts.registry.sets

    def route(self, job: Job) -> Plan | Obstacle:
        """The best pair for the next attempt of ``job``, or the least obstacle that stands in the way."""
        if self._floor_of != self._registry.sets:
            self._floor = Floor.of(self._registry.usable(), self._ledger)
            self._floor_of = self._registry.sets
        floor, limits = self._floor, self._limits
        backlog = limits.prefill_backlog_tokens
        needs = {size: Need(job, size, limits.output_reserve_tokens) for size in floor.block_sizes}
        alone = [filters.alone(seat, needs[seat.block_tokens], backlog) for seat in floor.alone]
        splits: list[tuple[Obstructions, Obstructions]] = [
            (
                [filters.prefill(seat, needs[seat.block_tokens], backlog) for seat in split.prefill],
                [filters.decode(seat, needs[seat.block_tokens], split.streamed) for seat in split.decode],
            )
            for split in floor.splits
        ]
        if None not in alone and not any(None in prefill and None in decode for prefill, decode in splits):
            return _least(alone, splits)
        look = Look(job, floor, needs, self._index, self._cost)
        views, cells = look.alone(floor.alone, alone)
        fit = len(cells)
        sights = [look.split(split, *quick) for split, quick in zip(floor.splits, splits, strict=True)]
        for sight in sights:
            fit += sight.fit
            cells += sight.cells()
        if not cells:
            return Obstacle.ROOM
        choice = choose(cells, self._slo)
        considered = Considered(
            views,
            tuple([sight.view for sight in sights]),
            floor.strangers,
            floor.apart,
            choice.wanted_ttft_s,
            choice.wanted_tpot_s,
        )
        return self._plan(job, choice, fit, considered, needs)

    def _plan(
        self, job: Job, choice: Choice, fit: int, considered: Considered, needs: dict[int, Need]
    ) -> Plan:
        _, _, _, _, prefill, decode, hits = choice.cell
        need = needs[decode.block_tokens]
        streamed = prefill.domain_id != decode.domain_id
        if prefill is decode:
            growth_blocks = need.growth_alone(decode.blocks)
        elif streamed:
            growth_blocks = need.growth_streamed(decode.blocks)
        else:
            growth_blocks = need.growth_lent(decode.blocks)
        pair = Pair(
            prefill=prefill.worker,
            decode=decode.worker,
            streamed=streamed,
            tokens=need.tokens,
            blocks=need.blocks,
            growth_blocks=growth_blocks,
            hits=hits,
            hashes=job.hashes(need.block_tokens),
        )
        placement = Placement(
            attempt=job.attempts + 1,
            prefill_worker=prefill.worker_id,
            decode_worker=decode.worker_id,
            reason=_reason(pair, choice.score, fit, self._floor.relaxed),
            considered=considered,
        )
        return Plan(pair, placement)


def _least(alone: Obstructions, splits: list[tuple[Obstructions, Obstructions]]) -> Obstacle:
    """Of all pairs' obstacles the least; a pair has the harder one of its workers'."""
    least = max(map(obstacle_of, alone), default=Obstacle.NEVER)
    for prefill, decode in splits:
        least = max(least, min(max(map(obstacle_of, prefill)), max(map(obstacle_of, decode))))
    return least


def _reason(pair: Pair, score: float, fit: int, relaxed: str) -> str:
    prefill, decode = pair.prefill.worker_id, pair.decode.worker_id
    where = f"{prefill} → {decode}" if pair.split else decode
    choice = f"{where}: best of {fit} with {score:.3f}, {pair.cached_tokens} of {pair.tokens} tokens cached"
    return f"{choice}; {relaxed}" if relaxed else choice
