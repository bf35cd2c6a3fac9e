"""Why a worker can not play a part for a request.

Knows: one function for each part, its reasons in the order in which they count. Does not know: which of the
remaining pairs is best.
"""

from __future__ import annotations

from collections.abc import Sequence

from diptych.domain.ids import BlockHash
from diptych.domain.report import Obstruction
from diptych.orchestration.hits import Hits
from diptych.orchestration.needs import Need
from diptych.orchestration.reasons import Why
from diptych.orchestration.seats import Seat


def alone(seat: Seat, need: Need, backlog_tokens: int) -> Obstruction | None:
    """Why it can not prefill and decode, whatever is cached where."""
    account = seat.account
    if need.next_blocks > seat.blocks:
        return Obstruction(Why.ARENA, need.next_blocks, seat.blocks)
    if account.prefill_tokens > backlog_tokens:
        return Obstruction(Why.BACKLOG, account.prefill_tokens, backlog_tokens)
    if account.decodes >= seat.max_running:
        return Obstruction(Why.BATCH, account.decodes, seat.max_running)
    if seat.worker.refusal is not None:
        return _refusal(seat, need.growth_alone(seat.blocks))
    return None


def alone_room(
    seat: Seat, need: Need, hits: Hits, hashes: Sequence[BlockHash], room_blocks: int
) -> Obstruction | None:
    """Whether the prompt and the output have room at a worker that is not idle, with these cached blocks.
    What it says itself counts too: a decode may have outgrown its promise."""
    blocks = need.blocks - hits.blocks + need.growth_alone(seat.blocks)
    return _room(seat, blocks, hits, hashes, min(room_blocks, seat.worker.reported_room_blocks))


def prefill(seat: Seat, need: Need, backlog_tokens: int) -> Obstruction | None:
    """Why it can not prefill for another worker, whatever is cached where."""
    if need.blocks > seat.blocks:
        return Obstruction(Why.ARENA, need.blocks, seat.blocks)
    if seat.account.prefill_tokens > backlog_tokens:
        return Obstruction(Why.BACKLOG, seat.account.prefill_tokens, backlog_tokens)
    return None


def prefill_room(seat: Seat, need: Need, hits: Hits, hashes: Sequence[BlockHash]) -> Obstruction | None:
    """Whether the prompt has room at a worker that is not idle, with these cached blocks."""
    return _room(seat, need.blocks - hits.blocks, hits, hashes, seat.room_blocks)


def decode(seat: Seat, need: Need, streamed: bool) -> Obstruction | None:
    """Why it can not decode what another worker prefills."""
    if streamed and need.next_blocks > seat.blocks:
        return Obstruction(Why.DECODE_ARENA, need.next_blocks, seat.blocks)
    if seat.account.decodes >= seat.max_running:
        return Obstruction(Why.BATCH, seat.account.decodes, seat.max_running)
    growth = need.growth_streamed(seat.blocks) if streamed else need.growth_lent(seat.blocks)
    if seat.worker.refusal is not None and (refused := _refusal(seat, growth)) is not None:
        return refused
    room = seat.room_blocks
    return None if growth <= room else Obstruction(Why.DECODE_ROOM, growth, room)


def _refusal(seat: Seat, growth_blocks: int) -> Obstruction | None:
    refusal = seat.worker.refusal
    if refusal is None or growth_blocks <= refusal.available_blocks:
        return None
    return Obstruction(Why.REFUSAL, growth_blocks, refusal.available_blocks)


def _room(
    seat: Seat, blocks: int, hits: Hits, hashes: Sequence[BlockHash], room_blocks: int
) -> Obstruction | None:
    """Cached blocks of its own count unless they are pinned already; how many are is asked only if it
    matters."""
    if blocks + hits.own <= room_blocks:
        return None
    blocks += hits.new_pins(seat, hashes) if hits.own else 0
    return None if blocks <= room_blocks else Obstruction(Why.PREFILL_ROOM, blocks, room_blocks)
