"""Where should this request run? Drop who can not, look at the others, score the pairs, pick.

Knows: a pair is as good as its prefill worker and its decode worker are, so workers are looked at, not pairs.
Every placement keeps what was seen (`explain` tells it by pairs). Does not know: how a placement is carried
out.
"""

from __future__ import annotations

from collections.abc import Sequence

from diptych.domain.cluster import SloSpec
from diptych.domain.report import AloneView, Considered, DecodeView, Placement, PrefillView, SplitView
from diptych.orchestration.choosing import Cell, Choice, choose
from diptych.orchestration.jobs import Job
from diptych.orchestration.looking import Look
from diptych.orchestration.needs import Need
from diptych.orchestration.pairs import Pair
from diptych.orchestration.parts import Parts
from diptych.orchestration.reasons import Obstacle, obstacle_of
from diptych.orchestration.seats import Floor


class Plan:
    """The decision: the pair, and the placement that explains it."""

    __slots__ = ("pair", "placement")

    def __init__(self, pair: Pair, placement: Placement) -> None:
        self.pair = pair
        self.placement = placement


class Router:
    """Answers `route`; changes nothing but its own count of questions."""

    def __init__(self, parts: Parts, slo: SloSpec) -> None:
        self._registry = parts.registry
        self._ledger = parts.ledger
        self._index = parts.prefixes
        self._backlog_tokens = parts.limits.prefill_backlog_tokens
        self._reserve_tokens = parts.limits.output_reserve_tokens
        self._cost = parts.cost
        self._slo = slo
        self._floor = Floor.of((), parts.ledger)
        self._floor_of = parts.registry.sets
        self.looks = 0
        """How often it was asked."""

    def route(self, job: Job) -> Plan | Obstacle:
        """The best pair for the next attempt of ``job``, or the least obstacle that stands in the way."""
        self.looks += 1
        if self._floor_of != self._registry.sets:
            self._floor = Floor.of(self._registry.usable(), self._ledger)
            self._floor_of = self._registry.sets
        floor = self._floor
        if job.tokens < floor.smallest_arena_tokens and self._all_behind():
            return Obstacle.BUSY
        needs = job.needs_of(floor.block_sizes, self._reserve_tokens)
        look = Look(job, floor, needs, self._index, self._cost, self._backlog_tokens)
        cells: list[Cell] = []
        alone = look.alone(floor.alone, cells)
        fit, splits = len(cells), list[SplitView]()
        for split in floor.splits:
            sight = look.split(split)
            fit += sight.fit
            cells += sight.cells()
            splits.append(sight.view)
        if not cells:
            return _least(alone, splits)
        choice = choose(cells, self._slo)
        considered = Considered(
            alone,
            tuple(splits),
            floor.strangers,
            floor.apart,
            choice.wanted_ttft_s,
            choice.wanted_tpot_s,
        )
        return self._plan(job, choice, fit, considered, needs)

    def _all_behind(self) -> bool:
        """Whether every prefill worker has enough prompt tokens before it: then nobody looks closer."""
        backlog_tokens = self._backlog_tokens
        for seat in self._floor.prefillers:
            if seat.account.prefill_tokens <= backlog_tokens:
                return False
        return bool(self._floor.prefillers)

    def _plan(
        self, job: Job, choice: Choice, fit: int, considered: Considered, needs: dict[int, Need]
    ) -> Plan:
        prefill, decode, hits = choice.cell.prefill, choice.cell.decode, choice.cell.hits
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
            block_tokens=need.block_tokens,
            hashes=job.hashes(need.block_tokens),
        )
        placement = Placement(
            attempt=job.attempts + 1,
            prefill_worker=prefill.worker_id,
            decode_worker=decode.worker_id,
            fit=fit,
            score=choice.score,
            tokens=need.tokens,
            cached_tokens=pair.cached_tokens,
            relaxed=self._floor.relaxed,
            considered=considered,
        )
        return Plan(pair, placement)


def _least(alone: Sequence[AloneView], splits: Sequence[SplitView]) -> Obstacle:
    """Of all pairs' obstacles the least; a pair has the harder one of its workers'. Where neither has one, it
    is the room of both together."""
    least = _least_of(alone)
    for split in splits:
        least = max(least, min(_least_of(split.prefill), _least_of(split.decode), Obstacle.ROOM))
    return least


def _least_of(views: Sequence[AloneView] | Sequence[PrefillView] | Sequence[DecodeView]) -> Obstacle:
    return max([obstacle_of(view.obstruction) for view in views], default=Obstacle.NEVER)
