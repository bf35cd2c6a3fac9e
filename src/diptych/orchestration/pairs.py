"""One candidate: this worker prefills, that one decodes, these cached blocks are used.

Knows: what the pair would take of each worker. Does not know: whether it may (filters) or should (scorers).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from diptych.domain.ids import BlockId, WorkerId
from diptych.domain.kv import blocks_for
from diptych.domain.worker import Role
from diptych.orchestration.jobs import Job
from diptych.orchestration.ledger import Account, Hold
from diptych.orchestration.prefix_index import Owners
from diptych.orchestration.registry import Worker


class Hit(NamedTuple):
    """One cached block of the prefix and who has it."""

    owner: WorkerId
    block_id: BlockId


@dataclass(frozen=True, slots=True)
class Hits:
    """The leading blocks of a sequence that need no computing."""

    blocks: tuple[Hit, ...] = ()
    own: tuple[BlockId, ...] = ()
    """Those that the prefill worker has itself."""
    new_pins: Mapping[WorkerId, int] = field(default_factory=dict[WorkerId, int])
    """How many of them nobody has pinned so far, by owner."""


NO_HITS = Hits()


@dataclass(frozen=True, slots=True)
class Roles:
    """Which roles the usable workers cover. A role that nobody has is open to anyone."""

    prefill: bool
    decode: bool

    @staticmethod
    def of(workers: Sequence[Worker]) -> Roles:
        """What these workers can do."""
        roles = [worker.info.role for worker in workers]
        return Roles(
            prefill=any(role is not Role.DECODE for role in roles),
            decode=any(role is not Role.PREFILL for role in roles),
        )

    @property
    def relaxed(self) -> str:
        """Which role is open to anyone, in words; empty if none is."""
        missing = [name for name, there in (("prefill", self.prefill), ("decode", self.decode)) if not there]
        return f"no {' and no '.join(missing)} worker lives, so any may do it" if missing else ""

    def allow(self, prefill: Worker, decode: Worker) -> bool:
        """Split roles pair with each other, a mixed worker with itself; unless a role is open."""
        if not (self.prefill and self.decode):
            return True
        if prefill is decode:
            return prefill.info.role is Role.MIXED
        return prefill.info.role is Role.PREFILL and decode.info.role is Role.DECODE


@dataclass(frozen=True, slots=True)
class Pair:
    """A request on a pair of workers; both may be the same."""

    prefill: Worker
    decode: Worker
    prefill_account: Account
    decode_account: Account
    tokens: int
    growth_blocks: int
    """Blocks to set aside where it decodes: for the output; for the whole sequence if the KV is streamed."""
    hits: Hits = NO_HITS

    @property
    def split(self) -> bool:
        """Whether the KV changes hands."""
        return self.prefill is not self.decode

    @property
    def streamed(self) -> bool:
        """Whether the KV goes into another memory domain."""
        return self.prefill.info.domain_id != self.decode.info.domain_id

    @property
    def cached_tokens(self) -> int:
        """Tokens that need no computing."""
        return len(self.hits.blocks) * self.prefill.info.block_tokens

    @property
    def new_tokens(self) -> int:
        """Tokens to compute."""
        return self.tokens - self.cached_tokens

    @property
    def new_blocks(self) -> int:
        """Blocks that the prefill worker has to allocate for the tokens that exist."""
        return blocks_for(self.tokens, self.prefill.info.block_tokens) - len(self.hits.blocks)

    @property
    def prefill_need_blocks(self) -> int:
        """Room that the prefill worker must have: new blocks, cached ones that nobody has pinned so far, and
        the growth if it goes on to decode."""
        growth = 0 if self.split else self.growth_blocks
        return self.new_blocks + self.hits.new_pins.get(self.prefill.worker_id, 0) + growth

    @property
    def prefill_hold(self) -> Hold:
        """What the prefill worker is charged while it computes the prompt."""
        return Hold(
            blocks=self.new_blocks + (0 if self.split else self.growth_blocks),
            pins=self.hits.own,
            prefill_tokens=self.new_tokens,
            decodes=0 if self.split else 1,
            context_tokens=0 if self.split else self.tokens,
        )

    @property
    def decode_hold(self) -> Hold:
        """What another decode worker is charged from the placement on."""
        return Hold(blocks=self.growth_blocks, decodes=1, context_tokens=self.tokens)


def growth_blocks(job: Job, output_reserve_tokens: int, prefill: Worker, decode: Worker) -> int:
    """Blocks for the output: as much of it as is reserved for, and one for the partly filled block that is
    copied. In another memory domain than the prefill worker's, blocks for the tokens that exist as well.

    Never more than an otherwise empty worker has, or a long output could not run on a small one at all.
    """
    block_tokens, blocks = decode.info.block_tokens, decode.info.arena.blocks
    output_tokens = min(job.tokens_left, output_reserve_tokens)
    if prefill.info.domain_id != decode.info.domain_id:
        return min(blocks_for(job.tokens + output_tokens, block_tokens), blocks)
    wanted = blocks_for(output_tokens, block_tokens) + 1
    taken = 0 if prefill is not decode else blocks_for(job.tokens, block_tokens)
    return max(1, min(wanted, blocks - taken))


def choose_hits(
    run: Sequence[Owners],
    prefer: WorkerId,
    spare: Mapping[WorkerId, int],
    accounts: Mapping[WorkerId, Account],
) -> Hits:
    """The longest leading run of cached blocks that may be used, with one owner for each.

    The prefill worker itself comes first (no lease needed), then the owner of the block before (fewer
    leases), then whoever cached it first. ``spare``: how many blocks each other owner can let be pinned
    anew; absent: it lends nothing.
    """
    blocks: list[Hit] = []
    new_pins: dict[WorkerId, int] = {}
    last = prefer
    for owners in run:
        for owner in (prefer, last, *owners) if prefer not in owners else (prefer,):
            if owner in owners and owner in accounts:
                pins = int(owners[owner] not in accounts[owner].pins)
                taken = new_pins.get(owner, 0) + pins
                if owner == prefer or (owner in spare and (not pins or taken <= spare[owner])):
                    blocks.append(Hit(owner, owners[owner]))
                    new_pins[owner], last = taken, owner
                    break
        else:
            break
    own = tuple(hit.block_id for hit in blocks if hit.owner == prefer)
    return Hits(tuple(blocks), own, new_pins)
