"""Reasons why a pair can not run a request: their order, their words, what kind each is.

Knows: nothing of workers. Does not know: when a reason holds (filters).
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

from diptych.domain.report import Obstruction


class Obstacle(IntEnum):
    """What kind of reason it is, the hardest first."""

    NEVER = 0
    """Only another set of workers can change it."""
    BUSY = 1
    """The pair has enough to do; any other request would be refused too."""
    ROOM = 2
    """This request needs more blocks than are free; a smaller one may fit."""
    NONE = 3


class Why(StrEnum):
    """The reasons, in the order in which they count: a pair is dropped for the first of either worker's."""

    ROLE = "role"
    """Prefill workers pair with decode workers, mixed ones with themselves."""
    DOMAIN = "domain"
    """KV goes from one memory domain to another block by block, so blocks must have one size."""
    ARENA = "arena"
    """The tokens that exist (and the next one, if the same worker decodes) fit into an empty arena."""
    DECODE_ARENA = "decode_arena"
    """So they do, with the next one, where they are fetched to."""
    BACKLOG = "backlog"
    """Late binding: a prefill worker with enough prompt tokens before it gets no further request."""
    BATCH = "batch"
    """A decode worker's batch has an end."""
    REFUSAL = "refusal"
    """Who has just said that it has no room is not asked for more than it has, until something changes."""
    PREFILL_ROOM = "prefill_room"
    """The blocks of the prompt, by the ledger; an idle worker has room by definition."""
    DECODE_ROOM = "decode_room"
    """The blocks of the output, by the ledger; the worker itself has the last word (`ReserveRefused`)."""


_WORDS = {
    Why.ROLE: "role: {worker} and {worker} do not pair like this",
    Why.DOMAIN: "domain: blocks of {figure} tokens there, of {limit} here",
    Why.ARENA: "arena: {figure} blocks needed, {limit} exist",
    Why.DECODE_ARENA: "arena: {figure} blocks needed to decode, {limit} exist",
    Why.BACKLOG: "backlog: {figure} prompt tokens wait already",
    Why.BATCH: "batch: {limit} sequences run already",
    Why.REFUSAL: "refused: {worker} had {limit} blocks a moment ago",
    Why.PREFILL_ROOM: "room: prefill needs {figure} blocks, {limit} are free",
    Why.DECODE_ROOM: "room: decode needs {figure} blocks, {limit} are free",
}

_ORDER = {why: place for place, why in enumerate(Why)}

_OBSTACLES: dict[str, Obstacle] = {
    Why.ARENA: Obstacle.NEVER,
    Why.DECODE_ARENA: Obstacle.NEVER,
    Why.BACKLOG: Obstacle.BUSY,
    Why.BATCH: Obstacle.BUSY,
    Why.REFUSAL: Obstacle.ROOM,
    Why.PREFILL_ROOM: Obstacle.ROOM,
    Why.DECODE_ROOM: Obstacle.ROOM,
}


def obstacle_of(obstruction: Obstruction | None) -> Obstacle:
    """Which kind it is."""
    return Obstacle.NONE if obstruction is None else _OBSTACLES[obstruction.why]


def first(one: Obstruction | None, other: Obstruction | None) -> Obstruction | None:
    """What counts where either is in the way."""
    if one is None or other is None:
        return one or other
    return one if _ORDER[Why(one.why)] <= _ORDER[Why(other.why)] else other


def words(obstruction: Obstruction, worker: str) -> str:
    """The reason in words; ``worker`` is the one that it is about, or its role."""
    return _WORDS[Why(obstruction.why)].format(
        figure=obstruction.figure, limit=obstruction.limit, worker=worker
    )
