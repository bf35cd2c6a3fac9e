"""What the cluster has promised at each worker: blocks, prompt tokens, places in the decode batch.

Knows: holds and their sums, by worker id (an arena outlives the incarnations of its worker). Does not
know: what a worker really uses (a decode may outgrow its hold; only the worker's own answers are the truth).

    room = arena − distinct pinned blocks − promised blocks

Pinned blocks have ids (leases, prompt-cache hits), so two requests that share a prefix count it once.
Promised blocks have none yet (a prompt that is being computed, decode growth).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from diptych.domain.errors import Bug
from diptych.domain.ids import BlockId, WorkerId
from diptych.domain.worker import Arena


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """What one attempt or lease holds at one worker."""

    blocks: int = 0
    """Promised, without ids."""
    pins: tuple[BlockId, ...] = ()
    prefill_tokens: int = 0
    """Prompt tokens to compute there."""
    decodes: int = 0
    """Places in the decode batch."""
    context_tokens: int = 0
    """Tokens of the sequences that decode there."""


@dataclass(slots=True)
class Account:
    """Sum of the holds at one worker."""

    pins: dict[BlockId, int] = field(default_factory=dict[BlockId, int])
    holds: int = 0
    blocks: int = 0
    prefill_tokens: int = 0
    decodes: int = 0
    context_tokens: int = 0

    def room_blocks(self, arena: Arena) -> int:
        """Blocks of ``arena`` that nobody has been promised."""
        return arena.blocks - len(self.pins) - self.blocks

    def change(self, hold: Hold, sign: int) -> None:
        """Add (+1) or take away (-1) a hold."""
        self.holds += sign
        self.blocks += sign * hold.blocks
        self.prefill_tokens += sign * hold.prefill_tokens
        self.decodes += sign * hold.decodes
        self.context_tokens += sign * hold.context_tokens
        for block_id in hold.pins:
            count = self.pins.get(block_id, 0) + sign
            if count:
                self.pins[block_id] = count
            else:
                del self.pins[block_id]


class Ledger:
    """One account per worker id."""

    def __init__(self) -> None:
        self._accounts: dict[WorkerId, Account] = {}

    def account(self, worker_id: WorkerId) -> Account:
        """The sums at a worker."""
        return self._accounts.setdefault(worker_id, Account())

    def hold(self, worker_id: WorkerId, hold: Hold) -> None:
        """Add a hold."""
        self.account(worker_id).change(hold, +1)

    def release(self, worker_id: WorkerId, hold: Hold) -> None:
        """Take a hold away again."""
        self.account(worker_id).change(hold, -1)

    def check(self, holds: Iterable[tuple[WorkerId, Hold]]) -> None:
        """Raise `Bug` unless the accounts are the sums of exactly these holds."""
        wanted = Ledger()
        for worker_id, hold in holds:
            wanted.hold(worker_id, hold)
        for worker_id in sorted({*self._accounts, *wanted._accounts}):
            if self.account(worker_id) != wanted.account(worker_id):
                raise Bug(
                    f"ledger of {worker_id}: {self.account(worker_id)} is not {wanted.account(worker_id)}"
                )
