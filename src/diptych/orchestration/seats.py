"""The workers as placement sees them: who may pair with whom.

Knows: roles, memory domains and block sizes of the usable workers, with their accounts. Does not know:
requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diptych.domain.ids import WorkerId
from diptych.domain.report import Obstruction
from diptych.domain.worker import Role
from diptych.orchestration.ledger import Account, Ledger
from diptych.orchestration.reasons import Why
from diptych.orchestration.registry import Worker


class Seat:
    """One usable worker and what it has promised."""

    __slots__ = ("account", "block_tokens", "blocks", "domain_id", "max_running", "worker", "worker_id")

    def __init__(self, worker: Worker, account: Account) -> None:
        info = worker.info
        self.worker = worker
        self.worker_id = info.worker_id
        self.account = account
        self.domain_id = info.domain_id
        self.blocks = info.arena.blocks
        self.block_tokens = info.block_tokens
        self.max_running = info.max_running

    @property
    def room_blocks(self) -> int:
        """Blocks that nobody has been promised."""
        account = self.account
        return self.blocks - len(account.pins) - account.blocks


@dataclass(frozen=True, slots=True)
class Split:
    """Prefill workers and other, decode workers, all of which may pair."""

    prefill: tuple[Seat, ...]
    decode: tuple[Seat, ...]
    streamed: bool
    """Whether the KV goes from one memory domain to another."""


@dataclass(frozen=True, slots=True)
class Floor:
    """All usable workers. Split roles pair with each other, a mixed worker with itself; a role that nobody
    has is open to anyone."""

    seats: Mapping[WorkerId, Seat]
    alone: tuple[Seat, ...]
    """Those that may prefill and decode the same request."""
    splits: tuple[Split, ...]
    strangers: tuple[tuple[WorkerId, str], ...]
    """Those that may not, and their roles."""
    apart: tuple[tuple[WorkerId, WorkerId, Obstruction], ...]
    """Pairs whose roles fit and whose blocks do not."""
    block_sizes: tuple[int, ...]
    """Tokens of a block, as far as they differ."""
    prefillers: tuple[Seat, ...]
    """All that may compute a prompt, in any pair."""
    smallest_arena_tokens: int
    """What fits everywhere."""
    relaxed: str
    """Which role is open to anyone, in words; empty if none is."""

    @staticmethod
    def of(workers: Sequence[Worker], ledger: Ledger) -> Floor:
        """The floor of these workers."""
        seats = [Seat(worker, ledger.account(worker.worker_id)) for worker in workers]
        roles = [worker.info.role for worker in workers]
        missing = [
            name
            for name, other in (("prefill", Role.DECODE), ("decode", Role.PREFILL))
            if all(role is other for role in roles)
        ]
        if missing:
            relaxed = f"no {' and no '.join(missing)} worker lives, so any may do it"
            alone = prefill = decode = seats
        else:
            relaxed = ""
            alone = [seat for seat in seats if seat.worker.info.role is Role.MIXED]
            prefill = [seat for seat in seats if seat.worker.info.role is Role.PREFILL]
            decode = [seat for seat in seats if seat.worker.info.role is Role.DECODE]
        splits = _splits(prefill, decode)
        return Floor(
            seats={seat.worker_id: seat for seat in seats},
            alone=tuple(alone),
            splits=splits,
            strangers=tuple(
                (seat.worker_id, seat.worker.info.role.value) for seat in seats if seat not in alone
            ),
            apart=_apart(prefill, decode),
            block_sizes=tuple(sorted({seat.block_tokens for seat in seats})),
            prefillers=tuple(dict.fromkeys([*alone, *(seat for split in splits for seat in split.prefill)])),
            smallest_arena_tokens=min([seat.blocks * seat.block_tokens for seat in seats], default=0),
            relaxed=relaxed,
        )


def _splits(prefill: Sequence[Seat], decode: Sequence[Seat]) -> tuple[Split, ...]:
    """Groups in which everybody pairs with everybody in the same way, by the set of partners."""
    groups: dict[tuple[tuple[Seat, ...], bool], list[Seat]] = {}
    for one in prefill:
        fit = [it for it in decode if it is not one and it.block_tokens == one.block_tokens]
        for streamed in (False, True):
            partners = tuple([it for it in fit if (it.domain_id != one.domain_id) is streamed])
            if partners:
                groups.setdefault((partners, streamed), []).append(one)
    return tuple(
        Split(tuple(members), partners, streamed) for (partners, streamed), members in groups.items()
    )


def _apart(
    prefill: Sequence[Seat], decode: Sequence[Seat]
) -> tuple[tuple[WorkerId, WorkerId, Obstruction], ...]:
    return tuple(
        (one.worker_id, it.worker_id, Obstruction(Why.DOMAIN, one.block_tokens, it.block_tokens))
        for one in prefill
        for it in decode
        if one.block_tokens != it.block_tokens
    )
