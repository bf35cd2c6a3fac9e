"""The choice among all pairs that can run a request.

Knows: scores, and which workers can not be part of the best pair. Does not know: how predictions came about.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from diptych.domain.cluster import SloSpec
from diptych.domain.ids import WorkerId
from diptych.domain.report import DecodeView, PrefillView, SplitView
from diptych.orchestration.hits import Hits
from diptych.orchestration.scorers import closeness, total
from diptych.orchestration.seats import Seat

PrefillSight: TypeAlias = tuple[PrefillView, Seat, Hits]
DecodeSight: TypeAlias = tuple[DecodeView, Seat]

FEW_PAIRS: Final = 8
"""So many are scored sooner than thinned out."""


class Cell:
    """One pair: predictions in seconds, room and own share of the hits, prefill and decode worker, the cached
    blocks that it would use."""

    __slots__ = ("decode", "hits", "own_share", "prefill", "room", "tpot_s", "ttft_s")

    def __init__(
        self,
        ttft_s: float,
        tpot_s: float,
        room: float,
        own_share: float,
        prefill: Seat,
        decode: Seat,
        hits: Hits,
    ) -> None:
        self.ttft_s = ttft_s
        self.tpot_s = tpot_s
        self.room = room
        self.own_share = own_share
        self.prefill = prefill
        self.decode = decode
        self.hits = hits

    def before(self, other: Cell) -> bool:
        """Which of two with the same score: the earlier first token, then the first names."""
        if self.ttft_s != other.ttft_s:
            return self.ttft_s < other.ttft_s
        names = (self.prefill.worker_id, self.decode.worker_id)
        return names < (other.prefill.worker_id, other.decode.worker_id)


class SplitSight:
    """Prefill workers and decode workers that can take a request, each with any of the other side."""

    __slots__ = ("decode", "instead", "prefill", "view")

    def __init__(self) -> None:
        self.prefill: list[PrefillSight] = []
        self.decode: list[DecodeSight] = []
        self.instead: dict[tuple[WorkerId, WorkerId], tuple[PrefillView, Hits]] = {}
        """What holds for this pair instead, because the decode worker would lend too much otherwise."""
        self.view = SplitView((), ())

    @property
    def fit(self) -> int:
        """How many pairs can run the request."""
        not_fit = sum(view.obstruction is not None for view, _ in self.instead.values())
        return len(self.prefill) * len(self.decode) - not_fit

    def cells(self) -> list[Cell]:
        """Pairs, the best one among them."""
        cells: list[Cell] = []
        prefill, decode = self.prefill, self.decode
        if len(prefill) * len(decode) > FEW_PAIRS:
            prefill, decode = self._prefill_worth_it(), self._decode_worth_it()
        for view, seat, hits in prefill:
            for other, partner in decode:
                one, used = view, hits
                if self.instead:
                    one, used = self.instead.get((view.worker_id, other.worker_id), (view, hits))
                if one.obstruction is None:
                    ttft_s = one.ready_s + other.handoffs_s[one.handoff]
                    cells.append(Cell(ttft_s, other.tpot_s, other.room, one.own_share, seat, partner, used))
        return cells

    def _prefill_worth_it(self) -> list[PrefillSight]:
        """Without those behind whom another one, first by name, is ready no later and is like them otherwise:
        whatever the partner is, their pair is no better."""
        soonest: dict[tuple[float, int], float] = {}
        special = {prefill for prefill, _ in self.instead}
        kept: list[PrefillSight] = []
        for sight in self.prefill:
            view = sight[0]
            like = (view.own_share, view.handoff)
            if view.worker_id in special:
                kept.append(sight)
            elif like not in soonest or view.ready_s < soonest[like]:
                soonest[like] = view.ready_s
                kept.append(sight)
        return kept

    def _decode_worth_it(self) -> list[DecodeSight]:
        """Without those for whom another one, first by name, is as good or better in everything."""
        special = {decode for _, decode in self.instead}
        kept: list[DecodeSight] = []
        best: list[DecodeView] = []
        for sight in self.decode:
            view = sight[0]
            if view.worker_id in special:
                kept.append(sight)
            elif not any(_as_good(other, view) for other in best):
                best.append(view)
                kept.append(sight)
        return kept


class Choice:
    """The best pair."""

    __slots__ = ("cell", "score", "wanted_tpot_s", "wanted_ttft_s")

    def __init__(self, cell: Cell, score: float, wanted_ttft_s: float, wanted_tpot_s: float) -> None:
        self.cell = cell
        self.score = score
        self.wanted_ttft_s = wanted_ttft_s
        self.wanted_tpot_s = wanted_tpot_s


def choose(cells: list[Cell], slo: SloSpec) -> Choice:
    """The highest score; among equals the earliest first token (if all meet the targets, all are equal, and
    prompts would pile up on one worker), then the first names. ``cells`` is not empty."""
    wanted_ttft_s = slo.ttft_s or min([cell.ttft_s for cell in cells])
    wanted_tpot_s = slo.tpot_s or min([cell.tpot_s for cell in cells])
    best, best_score = cells[0], -1.0
    for cell in cells:
        ttft = closeness(cell.ttft_s, wanted_ttft_s)
        tpot = closeness(cell.tpot_s, wanted_tpot_s)
        score = total(ttft, tpot, cell.room, cell.own_share)
        if score > best_score or (score == best_score and cell.before(best)):
            best, best_score = cell, score
    return Choice(best, best_score, wanted_ttft_s, wanted_tpot_s)


def _as_good(one: DecodeView, other: DecodeView) -> bool:
    if one.tpot_s > other.tpot_s or one.room < other.room:
        return False
    if one.handoffs_s == other.handoffs_s:
        return True
    return all(a <= b for a, b in zip(one.handoffs_s, other.handoffs_s, strict=True))
