"""Reasons not to use a pair.

Knows: one small class per reason. Does not know: which of the remaining pairs is best.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from diptych.domain.cluster import LimitsSpec
from diptych.domain.kv import blocks_for
from diptych.orchestration.pairs import Pair, Roles


class Obstacle(IntEnum):
    """What kind of reason it is, the hardest first."""

    NEVER = 0
    """Only another set of workers can change it."""
    BUSY = 1
    """The pair has enough to do; any other request would be refused too."""
    ROOM = 2
    """This request needs more blocks than are free; a smaller one may fit."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What filters look at besides the pair."""

    limits: LimitsSpec
    roles: Roles


class Filter(Protocol):
    """One reason. ``needs_hits``: whether it depends on the cached blocks that the pair would use."""

    obstacle: Obstacle
    needs_hits: bool

    def reason(self, pair: Pair, scene: Scene, /) -> str | None:
        """Why this pair can not be used, or None."""
        ...


class RoleFilter:
    """Prefill workers pair with decode workers, mixed ones with themselves."""

    obstacle = Obstacle.NEVER
    needs_hits = False

    def reason(self, pair: Pair, scene: Scene, /) -> str | None:
        """See `Filter`."""
        if scene.roles.allow(pair.prefill, pair.decode):
            return None
        return f"role: {pair.prefill.info.role.value} and {pair.decode.info.role.value} do not pair like this"


class DomainFilter:
    """KV goes from one memory domain to another block by block."""

    obstacle = Obstacle.NEVER
    needs_hits = False

    def reason(self, pair: Pair, _: Scene, /) -> str | None:
        """See `Filter`."""
        ours, theirs = pair.prefill.info.block_tokens, pair.decode.info.block_tokens
        return None if ours == theirs else f"domain: blocks of {ours} tokens there, of {theirs} here"


class ArenaFilter:
    """The tokens that exist fit into an empty arena of the prefill worker; with the next one, into that of
    the worker that decodes from blocks of its own."""

    obstacle = Obstacle.NEVER
    needs_hits = False

    def reason(self, pair: Pair, _: Scene, /) -> str | None:
        """See `Filter`."""
        info = pair.prefill.info
        blocks = blocks_for(pair.tokens + (0 if pair.split else 1), info.block_tokens)
        if blocks > info.arena.blocks:
            return f"arena: {blocks} blocks needed, {info.arena.blocks} exist"
        exist = pair.decode.info.arena.blocks
        if pair.streamed and (blocks := blocks_for(pair.tokens + 1, info.block_tokens)) > exist:
            return f"arena: {blocks} blocks needed to decode, {exist} exist"
        return None


class BacklogFilter:
    """Late binding: a prefill worker with enough prompt tokens before it gets no further request."""

    obstacle = Obstacle.BUSY
    needs_hits = False

    def reason(self, pair: Pair, scene: Scene, /) -> str | None:
        """See `Filter`."""
        backlog = pair.prefill_account.prefill_tokens
        if backlog <= scene.limits.prefill_backlog_tokens:
            return None
        return f"backlog: {backlog} prompt tokens wait already"


class BatchFilter:
    """A decode worker's batch has an end."""

    obstacle = Obstacle.BUSY
    needs_hits = False

    def reason(self, pair: Pair, _: Scene, /) -> str | None:
        """See `Filter`."""
        most = pair.decode.info.max_running
        return None if pair.decode_account.decodes < most else f"batch: {most} sequences run already"


class PrefillRoomFilter:
    """The blocks of the prompt, by the ledger; an idle worker has room by definition."""

    obstacle = Obstacle.ROOM
    needs_hits = True

    def reason(self, pair: Pair, _: Scene, /) -> str | None:
        """See `Filter`."""
        if pair.prefill_account.holds == 0:
            return None
        room = pair.prefill_account.room_blocks(pair.prefill.info.arena)
        need = pair.prefill_need_blocks
        if not pair.split:
            room = min(room, pair.prefill.reported_room_blocks)
        return None if need <= room else f"room: prefill needs {need} blocks, {room} are free"


class DecodeRoomFilter:
    """The blocks of the output, by the ledger; the worker itself has the last word (`ReserveRefused`)."""

    obstacle = Obstacle.ROOM
    needs_hits = True

    def reason(self, pair: Pair, _: Scene, /) -> str | None:
        """See `Filter`."""
        if not pair.split:
            return None
        room = pair.decode_account.room_blocks(pair.decode.info.arena)
        need = pair.growth_blocks + pair.hits.new_pins.get(pair.decode.worker_id, 0)
        return None if need <= room else f"room: decode needs {need} blocks, {room} are free"


class RefusalFilter:
    """Who has just said that it has no room is not asked for more than it has, until something changes."""

    obstacle = Obstacle.ROOM
    needs_hits = False

    def reason(self, pair: Pair, _: Scene, /) -> str | None:
        """See `Filter`."""
        refusal = pair.decode.refusal
        if refusal is None or pair.growth_blocks <= refusal.available_blocks:
            return None
        return f"refused: {pair.decode.worker_id} had {refusal.available_blocks} blocks a moment ago"


DEFAULT_FILTERS: tuple[Filter, ...] = (
    RoleFilter(),
    DomainFilter(),
    ArenaFilter(),
    BacklogFilter(),
    BatchFilter(),
    RefusalFilter(),
    PrefillRoomFilter(),
    DecodeRoomFilter(),
)
