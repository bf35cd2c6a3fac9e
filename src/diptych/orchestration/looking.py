"""One look at all workers for one request: what would each mean for it?

Knows: predictions, cached blocks, room. Does not know: which pair is best.

    TTFT = queue + uncached prefill + handoff          TPOT = step(B) + (B − 1) · prefill / output

The second part of TPOT exists only where the decode worker prefills too (latency model, closed-loop TPOT).
"""

from __future__ import annotations

from collections.abc import Sequence

from diptych.domain.ids import BlockHash, DomainId, WorkerId
from diptych.domain.report import AloneView, DecodeView, PrefillView, SplitView
from diptych.orchestration import filters
from diptych.orchestration.choosing import Cell, SplitSight
from diptych.orchestration.hits import NO_HITS, Hits, Run, hashed_blocks
from diptych.orchestration.jobs import Job
from diptych.orchestration.needs import Need
from diptych.orchestration.prefix_index import PrefixIndex
from diptych.orchestration.seats import Floor, Seat, Split
from diptych.performance.estimate import CostModel


class Look:
    """Lives for one placement; the ledger and the index stand still meanwhile."""

    __slots__ = ("_backlog_tokens", "_cost", "_floor", "_index", "_job", "_needs", "_runs")

    def __init__(
        self,
        job: Job,
        floor: Floor,
        needs: dict[int, Need],
        index: PrefixIndex,
        cost: CostModel,
        backlog_tokens: int,
    ) -> None:
        self._job = job
        self._floor = floor
        self._needs = needs
        self._index = index
        self._cost = cost
        self._backlog_tokens = backlog_tokens
        self._runs: dict[DomainId, Run | None] = {}

    def alone(self, seats: Sequence[Seat], cells: list[Cell]) -> tuple[AloneView, ...]:
        """What each worker that may do both would mean; ``cells`` gets those that can."""
        cost, backlog_tokens, views = self._cost, self._backlog_tokens, list[AloneView]()
        for seat in seats:
            worker_id, need = seat.worker_id, self._needs[seat.block_tokens]
            obstruction = filters.alone(seat, need, backlog_tokens)
            if obstruction is not None:
                views.append(AloneView(worker_id, obstruction))
                continue
            account, hits, room_blocks = seat.account, self._hits(seat), seat.room_blocks
            cached = hits.blocks * need.block_tokens
            if account.holds:
                obstruction = filters.alone_room(seat, need, hits, self._hashes(need), room_blocks)
                if obstruction is not None:
                    views.append(AloneView(worker_id, obstruction, cached))
                    continue
            queued, others = account.prefill_tokens, account.decodes
            prefill_s = cost.prefill_s(worker_id, need.tokens - cached, cached)
            step_s = cost.decode_step_s(worker_id, others + 1, account.context_tokens + need.tokens)
            ttft_s = cost.prefill_s(worker_id, queued, 0) + prefill_s if queued else prefill_s
            tpot_s = step_s + others * prefill_s / need.output_tokens
            room, own_share = _share(room_blocks, seat.blocks), hits.own_share
            views.append(AloneView(worker_id, None, cached, own_share, ttft_s, tpot_s, room))
            cells.append(Cell(ttft_s, tpot_s, room, own_share, seat, seat, hits))
        return tuple(views)

    def split(self, split: Split) -> SplitSight:
        """The same for workers of which one would prefill and another one decode. Where one side can not,
        nobody looks closer at the other."""
        needs, streamed, backlog_tokens = self._needs, split.streamed, self._backlog_tokens
        prefill_no = [filters.prefill(it, needs[it.block_tokens], backlog_tokens) for it in split.prefill]
        if None in prefill_no or streamed:
            decode_no = [filters.decode(it, needs[it.block_tokens], streamed) for it in split.decode]
        else:
            decode_no = [None] * len(split.decode)  # busy or full ones change nothing any more
        overlaps: dict[float | None, int] = {} if streamed else {None: 0}
        prefill: list[PrefillView] = []
        decode: list[DecodeView] = []
        sight = SplitSight()
        for i in range(len(split.prefill)):  # by number: a strict `zip` costs as much as a small split
            seat, no = split.prefill[i], prefill_no[i]
            if no is None and None in decode_no:
                hits = self._hits(seat)
                view = self._prefill_view(seat, hits, overlaps if streamed else None)
                if view.obstruction is None:
                    sight.prefill.append((view, seat, hits))
            else:
                view = PrefillView(seat.worker_id, no)
            prefill.append(view)
        for i in range(len(split.decode)):
            seat, no = split.decode[i], decode_no[i]
            if no is None and sight.prefill:
                shown = self._decode_view(seat, overlaps)
                sight.decode.append((shown, seat))
            else:
                shown = DecodeView(seat.worker_id, no)
            decode.append(shown)
        instead = () if streamed else self._instead(sight)
        sight.view = SplitView(tuple(prefill), tuple(decode), instead)
        return sight

    def _prefill_view(self, seat: Seat, hits: Hits, overlaps: dict[float | None, int] | None) -> PrefillView:
        """``overlaps`` numbers the prefills of different length: their handoffs take differently long."""
        worker_id, need, account = seat.worker_id, self._needs[seat.block_tokens], seat.account
        cached = hits.blocks * need.block_tokens
        if account.holds:
            obstruction = filters.prefill_room(seat, need, hits, self._hashes(need))
            if obstruction is not None:
                return PrefillView(worker_id, obstruction, cached)
        queued = account.prefill_tokens
        prefill_s = self._cost.prefill_s(worker_id, need.tokens - cached, cached)
        ready_s = self._cost.prefill_s(worker_id, queued, 0) + prefill_s if queued else prefill_s
        handoff = 0 if overlaps is None else overlaps.setdefault(prefill_s, len(overlaps))
        return PrefillView(worker_id, None, cached, hits.own_share, ready_s, handoff)

    def _decode_view(self, seat: Seat, overlaps: dict[float | None, int]) -> DecodeView:
        worker_id, account, tokens, cost = seat.worker_id, seat.account, self._job.tokens, self._cost
        tpot_s = cost.decode_step_s(worker_id, account.decodes + 1, account.context_tokens + tokens)
        handoffs_s = tuple([cost.handoff_s(worker_id, tokens, overlap_s) for overlap_s in overlaps])
        return DecodeView(worker_id, None, tpot_s, _share(seat.room_blocks, seat.blocks), handoffs_s)

    def _instead(self, sight: SplitSight) -> tuple[tuple[WorkerId, PrefillView], ...]:
        """What a decode worker lends must leave it room for the output, or its reservation would be refused
        for want of the very blocks that it lends."""
        changed: list[tuple[WorkerId, PrefillView]] = []
        for view, seat, hits in sight.prefill:
            if hits.own == hits.blocks:
                continue
            for _, decode in sight.decode:
                taken = hits.taken_of(decode.worker_id)
                if not taken:
                    continue
                need, room_blocks = self._needs[decode.block_tokens], decode.room_blocks
                growth = need.growth_lent(decode.blocks)
                if taken + growth <= room_blocks:
                    continue
                lent = hits.new_pins(decode, self._hashes(need))
                if not lent or lent + growth <= room_blocks:
                    continue
                run = self._runs[seat.domain_id]
                fewer = run.choose(seat.worker_id, (decode.worker_id, growth)) if run is not None else NO_HITS
                other = self._prefill_view(seat, fewer, None)
                sight.instead[view.worker_id, decode.worker_id] = (other, fewer)
                changed.append((decode.worker_id, other))
        return tuple(changed)

    def _hashes(self, need: Need) -> tuple[BlockHash, ...]:
        return self._job.hashes(need.block_tokens)

    def _hits(self, seat: Seat) -> Hits:
        domain_id = seat.domain_id
        if domain_id not in self._runs:
            self._runs[domain_id] = self._find_run(seat)
        run = self._runs[domain_id]
        return NO_HITS if run is None else run.choose(seat.worker_id)

    def _find_run(self, seat: Seat) -> Run | None:
        """The cached blocks in the memory domain of ``seat``; None if there is none."""
        job = self._job
        if job.request.sampling.prompt_logprobs is not None:
            return None  # every position has to be computed
        hashes = job.hashes(seat.block_tokens)
        most = hashed_blocks(job.tokens, seat.block_tokens)
        stretches = self._index.leading(seat.domain_id, hashes if len(hashes) <= most else hashes[:most])
        return Run(stretches, hashes, self._floor.seats) if stretches else None


def _share(room_blocks: int, blocks: int) -> float:
    """Share of an arena that nobody has been promised; a decode may have outgrown its promise."""
    return room_blocks / blocks if room_blocks > 0 else 0.0
