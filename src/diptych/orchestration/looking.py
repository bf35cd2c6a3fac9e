"""One look at all workers for one request: what would each mean for it?

Knows: predictions, cached blocks, room. Does not know: which pair is best.

    TTFT = queue + uncached prefill + handoff          TPOT = step(B) + (B − 1) · prefill / output

The second part of TPOT exists only where the decode worker prefills too (latency model, closed-loop TPOT).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from diptych.domain.ids import DomainId, WorkerId
from diptych.domain.report import AloneView, DecodeView, Obstruction, PrefillView, SplitView
from diptych.orchestration import filters
from diptych.orchestration.choosing import Cell, SplitSight
from diptych.orchestration.hits import NO_HITS, Hits, Run, hashed_blocks
from diptych.orchestration.jobs import Job
from diptych.orchestration.needs import Need
from diptych.orchestration.prefix_index import PrefixIndex
from diptych.orchestration.seats import Floor, Seat, Split
from diptych.performance.estimate import CostModel

Obstructions: TypeAlias = Sequence[Obstruction | None]


class Look:
    """Lives for one placement; the ledger and the index stand still meanwhile."""

    def __init__(
        self, job: Job, floor: Floor, needs: dict[int, Need], index: PrefixIndex, cost: CostModel
    ) -> None:
        self._job = job
        self._floor = floor
        self._needs = needs
        self._index = index
        self._cost = cost
        self._reads_cache = job.request.sampling.prompt_logprobs is None
        self._runs: dict[DomainId, Run | None] = {}

    def alone(self, seats: Sequence[Seat], quick: Obstructions) -> tuple[tuple[AloneView, ...], list[Cell]]:
        """What each worker that could do both would mean; cells of those that can."""
        cost, views, cells = self._cost, list[AloneView](), list[Cell]()
        for seat, obstruction in zip(seats, quick, strict=True):
            worker_id, need = seat.worker_id, self._needs[seat.block_tokens]
            if obstruction is not None:
                views.append(AloneView(worker_id, obstruction))
                continue
            hits = self._hits(seat)
            cached = hits.blocks * need.block_tokens
            obstruction = filters.alone_room(seat, need, hits)
            if obstruction is not None:
                views.append(AloneView(worker_id, obstruction, cached))
                continue
            account = seat.account
            queue_s = cost.prefill_s(worker_id, account.prefill_tokens, 0) if account.prefill_tokens else 0.0
            prefill_s = cost.prefill_s(worker_id, need.tokens - cached, cached)
            others = account.decodes
            step_s = cost.decode_step_s(worker_id, others + 1, account.context_tokens + need.tokens)
            ttft_s = queue_s + prefill_s
            tpot_s = step_s + others * prefill_s / need.output_tokens
            room = _room(seat)
            views.append(AloneView(worker_id, None, cached, hits.own_share, ttft_s, tpot_s, room))
            cells.append((ttft_s, tpot_s, room, hits.own_share, seat, seat, hits))
        return tuple(views), cells

    def split(self, split: Split, quick_prefill: Obstructions, quick_decode: Obstructions) -> SplitSight:
        """The same for workers of which one would prefill and another one decode."""
        sight = SplitSight(split.streamed)
        overlaps: dict[float | None, int] = {} if split.streamed else {None: 0}
        prefill = tuple(
            self._prefill(seat, obstruction, sight, overlaps)
            for seat, obstruction in zip(split.prefill, quick_prefill, strict=True)
        )
        decode = tuple(
            self._decode(seat, obstruction, sight, overlaps)
            for seat, obstruction in zip(split.decode, quick_decode, strict=True)
        )
        instead = () if split.streamed else self._instead(sight)
        sight.view = SplitView(prefill, decode, instead)
        return sight

    def _prefill(
        self,
        seat: Seat,
        obstruction: Obstruction | None,
        sight: SplitSight,
        overlaps: dict[float | None, int],
    ) -> PrefillView:
        if obstruction is not None:
            return PrefillView(seat.worker_id, obstruction)
        hits = self._hits(seat)
        view = self._prefill_view(seat, hits, overlaps if sight.streamed else None)
        if view.obstruction is None:
            sight.prefill.append((view, seat, hits))
        return view

    def _prefill_view(self, seat: Seat, hits: Hits, overlaps: dict[float | None, int] | None) -> PrefillView:
        """``overlaps`` numbers the prefills of different length: their handoffs take differently long."""
        worker_id, need, queued = seat.worker_id, self._needs[seat.block_tokens], seat.account.prefill_tokens
        cached = hits.blocks * need.block_tokens
        obstruction = filters.prefill_room(seat, need, hits)
        if obstruction is not None:
            return PrefillView(worker_id, obstruction, cached)
        queue_s = self._cost.prefill_s(worker_id, queued, 0) if queued else 0.0
        prefill_s = self._cost.prefill_s(worker_id, need.tokens - cached, cached)
        handoff = 0 if overlaps is None else overlaps.setdefault(prefill_s, len(overlaps))
        return PrefillView(worker_id, None, cached, hits.own_share, queue_s + prefill_s, handoff)

    def _decode(
        self,
        seat: Seat,
        obstruction: Obstruction | None,
        sight: SplitSight,
        overlaps: dict[float | None, int],
    ) -> DecodeView:
        if obstruction is not None:
            return DecodeView(seat.worker_id, obstruction)
        account, tokens, cost = seat.account, self._job.tokens, self._cost
        tpot_s = cost.decode_step_s(seat.worker_id, account.decodes + 1, account.context_tokens + tokens)
        handoffs_s = tuple([cost.handoff_s(seat.worker_id, tokens, overlap_s) for overlap_s in overlaps])
        view = DecodeView(seat.worker_id, None, tpot_s, _room(seat), handoffs_s)
        sight.decode.append((view, seat))
        return view

    def _instead(self, sight: SplitSight) -> tuple[tuple[WorkerId, PrefillView], ...]:
        """What a decode worker lends must leave it room for the output, or its reservation would be refused
        for want of the very blocks that it lends."""
        changed: list[tuple[WorkerId, PrefillView]] = []
        for view, seat, hits in sight.prefill:
            if hits.own == hits.blocks:
                continue
            for _, decode in sight.decode:
                lent = hits.new_pins.get(decode.worker_id, 0)
                growth = self._needs[decode.block_tokens].growth_lent(decode.blocks)
                if not lent or lent + growth <= decode.room_blocks:
                    continue
                run = self._run(seat)
                fewer = run.choose(seat.worker_id, (decode.worker_id, growth)) if run is not None else NO_HITS
                other = self._prefill_view(seat, fewer, None)
                sight.instead[view.worker_id, decode.worker_id] = (other, fewer)
                changed.append((decode.worker_id, other))
        return tuple(changed)

    def _hits(self, seat: Seat) -> Hits:
        run = self._run(seat)
        return NO_HITS if run is None else run.choose(seat.worker_id)

    def _run(self, seat: Seat) -> Run | None:
        """The cached blocks in the memory domain of ``seat``; None if there is none."""
        domain_id = seat.domain_id
        if domain_id not in self._runs:
            hashes = self._job.hashes(seat.block_tokens) if self._reads_cache else ()
            most = hashed_blocks(self._job.tokens, seat.block_tokens)
            stretches = self._index.leading(domain_id, hashes if len(hashes) <= most else hashes[:most])
            self._runs[domain_id] = Run(stretches, hashes, self._floor.seats) if stretches else None
        return self._runs[domain_id]


def _room(seat: Seat) -> float:
    """Share of its arena that nobody has been promised."""
    return min(1.0, max(0.0, seat.room_blocks / seat.blocks))
