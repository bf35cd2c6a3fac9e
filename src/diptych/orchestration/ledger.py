"""What the cluster has promised at each worker: blocks, prompt tokens, places in the decode batch.

Knows: holds and their sums, by worker id (an arena outlives the incarnations of its worker). Does not
know: what a worker really uses (a decode may outgrow its hold; only the worker's own answers are the truth).

    room = arena − distinct pinned blocks − promised blocks

Pinned blocks have ids (leases, prompt-cache hits), so two requests that share a prefix count it once.
Promised blocks have none yet (a prompt that is being computed, decode growth).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from diptych.domain.errors import Bug
from diptych.domain.ids import BlockId, WorkerId
from diptych.domain.worker import Arena


class Hold:
    """What one attempt or lease holds at one worker. Nobody changes it."""

    __slots__ = ("blocks", "context_tokens", "decodes", "pins", "prefill_tokens")

    def __init__(
        self,
        *,
        blocks: int = 0,
        pins: tuple[BlockId, ...] = (),
        prefill_tokens: int = 0,
        decodes: int = 0,
        context_tokens: int = 0,
    ) -> None:
        self.blocks = blocks
        """Promised, without ids."""
        self.pins = pins
        self.prefill_tokens = prefill_tokens
        """Prompt tokens to compute there."""
        self.decodes = decodes
        """Places in the decode batch."""
        self.context_tokens = context_tokens
        """Tokens of the sequences that decode there."""


class Account:
    """Sum of the holds at one worker."""

    __slots__ = ("blocks", "context_tokens", "decodes", "holds", "pins", "prefill_tokens")

    def __init__(self) -> None:
        self.pins: dict[BlockId, int] = {}
        """Pinned block → by how many holds."""
        self.holds = 0
        self.blocks = 0
        self.prefill_tokens = 0
        self.decodes = 0
        self.context_tokens = 0

    def room_blocks(self, arena: Arena) -> int:
        """Blocks of ``arena`` that nobody has been promised."""
        return arena.blocks - len(self.pins) - self.blocks

    def add(self, hold: Hold) -> None:
        """Count a hold in."""
        self._count(hold, 1)
        if hold.pins:  # as objects: compiled code would make each number anew
            pins = cast(dict[object, int], self.pins)
            for block_id in cast(tuple[object, ...], hold.pins):
                pins[block_id] = pins.get(block_id, 0) + 1

    def take_away(self, hold: Hold) -> None:
        """Count it out again."""
        self._count(hold, -1)
        if hold.pins:
            pins = cast(dict[object, int], self.pins)
            for block_id in cast(tuple[object, ...], hold.pins):
                count = pins[block_id]
                if count == 1:
                    del pins[block_id]
                else:
                    pins[block_id] = count - 1

    def exchange(self, hold: Hold, other: Hold) -> None:
        """Count one hold out and another one in; pins that they share are left alone."""
        if hold.pins is other.pins:
            self._count(hold, -1)
            self._count(other, 1)
        else:
            self.take_away(hold)
            self.add(other)

    def _count(self, hold: Hold, times: int) -> None:
        self.holds += times
        self.blocks += times * hold.blocks
        self.prefill_tokens += times * hold.prefill_tokens
        self.decodes += times * hold.decodes
        self.context_tokens += times * hold.context_tokens

    def figures(self) -> tuple[dict[BlockId, int], int, int, int, int, int]:
        """All of it, to be compared."""
        sums = (self.holds, self.blocks, self.prefill_tokens, self.decodes, self.context_tokens)
        return (self.pins, *sums)


class Ledger:
    """One account per worker id. ``releases`` counts the holds that were taken away: while it stands still,
    there is room nowhere that was not there before."""

    def __init__(self) -> None:
        self.releases = 0
        self._accounts: dict[WorkerId, Account] = {}

    def account(self, worker_id: WorkerId) -> Account:
        """The sums at a worker; always the same object."""
        account = self._accounts.get(worker_id)
        if account is None:
            account = self._accounts[worker_id] = Account()
        return account

    def hold(self, worker_id: WorkerId, hold: Hold) -> None:
        """Add a hold."""
        self.account(worker_id).add(hold)

    def release(self, worker_id: WorkerId, hold: Hold) -> None:
        """Take a hold away again."""
        self.releases += 1
        self.account(worker_id).take_away(hold)

    def exchange(self, worker_id: WorkerId, hold: Hold, other: Hold) -> None:
        """Take a hold away and add another one."""
        self.releases += 1
        self.account(worker_id).exchange(hold, other)

    def check(self, holds: Iterable[tuple[WorkerId, Hold]]) -> None:
        """Raise `Bug` unless the accounts are the sums of exactly these holds."""
        wanted = Ledger()
        for worker_id, hold in holds:
            wanted.hold(worker_id, hold)
        for worker_id in sorted({*self._accounts, *wanted._accounts}):
            there, due = self.account(worker_id).figures(), wanted.account(worker_id).figures()
            if there != due:
                raise Bug(f"ledger of {worker_id}: {there} is not {due}")
