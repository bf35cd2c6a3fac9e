"""How a sequence comes by blocks and parts with them. The only code that moves blocks between a sequence
and the pool.

Knows: prefix matching, allocation, growth, import, publishing, export, giving back. Does not know: who
deserves room, steps, commands.

    match     cache/borrowed ──▶ leading blocks of the table      seat_prompt
    allocate  pool ──▶ the rest of the prompt's blocks            seat_prompt
    import    foreign full blocks ──▶ table; partial one copied   seat_import
    fetch     cache, reservation ──▶ blocks to be filled          seat_fetch
    append    reservation, else pool ──▶ one more block           grow
    publish   own full block gets its name, stays own             publish_full
    export    own references ──▶ lease                            export
    end       own references ──▶ pool (idle if named, else free)  give_back
"""

from __future__ import annotations

from dataclasses import dataclass

from diptych.domain.errors import Bug
from diptych.domain.ids import BlockId
from diptych.domain.kv import blocks_for
from diptych.scheduling.block_pool import BlockPool
from diptych.scheduling.sequence import Sequence


@dataclass(frozen=True, slots=True)
class PromptNeed:
    """What a waiting prompt would take: ``prefix`` blocks that need no computing, ``local`` of them from
    this worker's cache, and ``fresh`` new ones."""

    prefix: tuple[BlockId, ...]
    local: tuple[BlockId, ...]
    fresh: int

    def cost(self, pool: BlockPool) -> int:
        """Available blocks that it would use up: waking an idle block costs as much as a fresh one."""
        return self.fresh + sum(pool.is_idle(block) for block in self.local)


def prompt_need(sequence: Sequence, pool: BlockPool) -> PromptNeed:
    """Match the longest prefix of whole blocks, block 0 first: lent block, else cached block, else stop."""
    prefix: list[BlockId] = []
    local: list[BlockId] = []
    for index in range(sequence.matchable_blocks):
        block_id = sequence.borrowed.get(index)
        if block_id is None:
            block_id = pool.find(sequence.block_hash(index))
            if block_id is None:
                break
            local.append(block_id)
        prefix.append(block_id)
    total = blocks_for(len(sequence.tokens), sequence.block_tokens)
    return PromptNeed(tuple(prefix), tuple(local), total - len(prefix))


def can_ever_fit(need: PromptNeed, pool: BlockPool) -> bool:
    """Whether an empty arena would have room."""
    return need.fresh + len(need.local) <= pool.arena.blocks


def seat_prompt(sequence: Sequence, need: PromptNeed, pool: BlockPool) -> None:
    """Take all blocks of the prompt at once, so that no half-prefilled sequence can wait for memory.

    Matched blocks are held before fresh ones are allocated, or they could be evicted in between.
    """
    for block_id in need.local:
        pool.hold(block_id)
    fresh = pool.allocate(need.fresh)
    sequence.block_table = [*need.prefix, *fresh]
    sequence.own_blocks = [*need.local, *fresh]
    sequence.settled_blocks = len(need.prefix)
    sequence.computed = len(need.prefix) * sequence.block_tokens


def seat_import(sequence: Sequence, pool: BlockPool) -> tuple[tuple[BlockId, BlockId], ...] | None:
    """Borrow the full blocks and take one own block for what comes next. Returns the copies (source, target)
    that the next step has to make: one if the last imported block is partly filled. None: no room. What was
    fetched has its blocks already and may need one more."""
    if sequence.source is not None:
        return () if grow(sequence, pool) else None
    full = sequence.full_blocks
    sequence.block_table = list(sequence.imported_blocks[:full])
    sequence.settled_blocks = full
    if not grow(sequence, pool):
        return None
    sequence.copied_blocks = len(sequence.imported_blocks) - full
    return tuple((source, sequence.block_table[full]) for source in sequence.imported_blocks[full:])


def seat_fetch(sequence: Sequence, pool: BlockPool) -> bool:
    """Take own blocks for KV that stands in another memory domain. Leading blocks that are cached here are
    held instead of fetched; the promise for them goes back. False: no room, nothing has changed."""
    held = _cached_run(sequence, pool)
    idle = sum(pool.is_idle(block) for block in held)
    missing = len(sequence.imported_blocks) - len(held)
    if missing + idle > sequence.reserved_blocks + pool.available_blocks:
        return False
    spare = min(len(held), sequence.reserved_blocks)
    pool.cancel(spare)
    sequence.reserved_blocks -= spare
    for block_id in held:
        pool.hold(block_id)
    sequence.block_table = list(held)
    sequence.own_blocks = list(held)
    sequence.settled_blocks = len(held)
    sequence.copied_blocks = missing
    for _ in range(missing):
        take_block(sequence, pool)
    return True


def _cached_run(sequence: Sequence, pool: BlockPool) -> list[BlockId]:
    run: list[BlockId] = []
    for index in range(sequence.full_blocks):
        block_id = pool.find(sequence.block_hash(index))
        if block_id is None:
            break
        run.append(block_id)
    return run


def grow(sequence: Sequence, pool: BlockPool) -> bool:
    """Make sure that the next token has a block: from the reservation first, then from what is available.
    False: no room, nothing has changed."""
    return sequence.missing_blocks <= 0 or take_block(sequence, pool)


def take_block(sequence: Sequence, pool: BlockPool) -> bool:
    """One more block, from the reservation first, then from what is available. False: no room, nothing has
    changed."""
    if sequence.reserved_blocks:
        sequence.reserved_blocks -= 1
        block_id = pool.draw()
    elif pool.available_blocks:
        (block_id,) = pool.allocate(1)
    else:
        return False
    sequence.block_table.append(block_id)
    sequence.own_blocks.append(block_id)
    return True


def publish_full(sequence: Sequence, pool: BlockPool) -> None:
    """Name the blocks that have been filled since the last call."""
    for index in range(sequence.settled_blocks, sequence.full_blocks):
        pool.publish(sequence.block_hash(index), sequence.block_table[index])
    sequence.settled_blocks = max(sequence.settled_blocks, sequence.full_blocks)


def publish_block(sequence: Sequence, pool: BlockPool) -> None:
    """Name the next block that has no name yet; the caller knows that it is full."""
    index = sequence.settled_blocks
    pool.publish(sequence.block_hash(index), sequence.block_table[index])
    sequence.settled_blocks = index + 1


def export(sequence: Sequence, pool: BlockPool) -> None:
    """Hand the own references over to the export lease."""
    if sequence.export_lease is None:
        raise Bug(f"request {sequence.request_id} has no lease to export to")
    pool.export(sequence.export_lease, sequence.own_blocks)
    sequence.own_blocks = []


def give_back(sequence: Sequence, pool: BlockPool) -> None:
    """Part with everything: references and what is left of the reservation."""
    pool.release(sequence.own_blocks)
    pool.cancel(sequence.reserved_blocks)
    sequence.own_blocks = []
    sequence.block_table = []
    sequence.reserved_blocks = 0
