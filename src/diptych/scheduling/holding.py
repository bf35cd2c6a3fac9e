"""How a sequence comes by blocks and parts with them. The only code that moves blocks between a sequence
and the pool.

Knows: prefix matching, allocation, growth, import, publishing, export, giving back. Does not know: who
deserves room, steps, commands.

    match     cache/borrowed ──▶ leading blocks of the table      seat_prompt
    allocate  pool ──▶ the rest of the prompt's blocks            seat_prompt
    import    foreign full blocks ──▶ table; partial one copied   seat_import
    fetch     cache, reservation ──▶ blocks to be filled          seat_fetch
    append    reservation, else pool ──▶ one more block           take_block
    publish   own full block gets its name, stays own             publish_full
    export    own references ──▶ lease                            export
    end       own references ──▶ pool (idle if named, else free)  give_back
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from diptych.domain.errors import Bug
from diptych.domain.ids import BlockHash, BlockId
from diptych.domain.kv import blocks_for
from diptych.scheduling.block_pool import BlockPool
from diptych.scheduling.sequence import Sequence


class PromptNeed:
    """What a waiting prompt would take: ``prefix`` blocks that need no computing, ``local`` of them from
    this worker's cache (``idle`` of those held by nobody), and ``fresh`` new ones."""

    __slots__ = ("fresh", "idle", "local", "prefix")

    def __init__(self, prefix: list[BlockId], local: list[BlockId], idle: int, fresh: int) -> None:
        self.prefix = prefix
        self.local = local
        self.idle = idle
        self.fresh = fresh

    @property
    def cost(self) -> int:
        """Available blocks that it would use up: waking an idle block costs as much as a fresh one."""
        return self.fresh + self.idle


def prompt_need(sequence: Sequence, pool: BlockPool) -> PromptNeed:
    """Match the longest prefix of whole blocks, block 0 first: lent block, else cached block, else stop."""
    if sequence.borrowed:
        hashes = sequence.leading_hashes(sequence.matchable_blocks)
        prefix, local = _match(sequence.borrowed, hashes, pool)
    else:
        prefix = local = _found(sequence, sequence.matchable_blocks, pool)
    fresh = blocks_for(sequence.tokens, sequence.block_tokens) - len(prefix)
    return PromptNeed(prefix, local, pool.count_idle(local) if local else 0, fresh)


def _found(sequence: Sequence, most: int, pool: BlockPool) -> list[BlockId]:
    """The leading blocks that are cached here, ``most`` at most. Hashes that nobody has computed yet are
    computed one by one, as far as they are found."""
    run = pool.find_run(sequence.hashes, most)
    while len(run) == len(sequence.hashes) < most:
        block_id = pool.find(sequence.block_hash(len(run)))
        if block_id is None:
            break
        run.append(block_id)
    return run


def _match(
    borrowed: Mapping[int, BlockId], hashes: Iterable[BlockHash], pool: BlockPool
) -> tuple[list[BlockId], list[BlockId]]:
    prefix: list[BlockId] = []
    local: list[BlockId] = []
    for index, block_hash in enumerate(hashes):
        block_id = borrowed.get(index)
        if block_id is None:
            block_id = pool.find(block_hash)
            if block_id is None:
                break
            local.append(block_id)
        prefix.append(block_id)
    return prefix, local


def can_ever_fit(need: PromptNeed, pool: BlockPool) -> bool:
    """Whether an empty arena would have room."""
    return need.fresh + len(need.local) <= pool.arena.blocks


def seat_prompt(sequence: Sequence, need: PromptNeed, pool: BlockPool) -> None:
    """Take all blocks of the prompt at once, so that no half-prefilled sequence can wait for memory.

    Matched blocks are held before fresh ones are allocated, or they could be evicted in between.
    """
    pool.hold(need.local)
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
        has_room = sequence.computed < sequence.capacity or take_block(sequence, pool)
        return () if has_room else None
    full = sequence.full_blocks
    sequence.block_table = list(sequence.imported_blocks[:full])
    sequence.settled_blocks = full
    if not take_block(sequence, pool):
        return None
    sequence.copied_blocks = len(sequence.imported_blocks) - full
    return tuple((source, sequence.block_table[full]) for source in sequence.imported_blocks[full:])


def seat_fetch(sequence: Sequence, pool: BlockPool) -> bool:
    """Take own blocks for KV that stands in another memory domain. Leading blocks that are cached here are
    held instead of fetched; the promise for them goes back. False: no room, nothing has changed."""
    held = _found(sequence, sequence.full_blocks, pool)
    missing = len(sequence.imported_blocks) - len(held)
    if missing + pool.count_idle(held) > sequence.reserved_blocks + pool.available_blocks:
        return False
    spare = min(len(held), sequence.reserved_blocks)
    pool.cancel(spare)
    sequence.reserved_blocks -= spare
    pool.hold(held)
    promised = min(missing, sequence.reserved_blocks)
    sequence.reserved_blocks -= promised
    blocks = [*held, *pool.draw(promised), *pool.allocate(missing - promised)]
    sequence.block_table = blocks
    sequence.own_blocks = blocks.copy()
    sequence.settled_blocks = len(held)
    sequence.copied_blocks = missing
    return True


def take_block(sequence: Sequence, pool: BlockPool) -> bool:
    """One more block, from the reservation first, then from what is available. False: no room, nothing has
    changed."""
    if sequence.reserved_blocks:
        sequence.reserved_blocks -= 1
        blocks = pool.draw()
    elif pool.available_blocks > 0:
        blocks = pool.allocate(1)
    else:
        return False
    sequence.block_table += blocks
    sequence.own_blocks += blocks
    return True


def publish_full(sequence: Sequence, pool: BlockPool) -> None:
    """Name the blocks that have been filled since the last call."""
    start, stop = sequence.settled_blocks, sequence.full_blocks
    if start < stop:
        pool.publish(sequence.block_hashes(start, stop), sequence.block_table[start:stop])
        sequence.settled_blocks = stop


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
