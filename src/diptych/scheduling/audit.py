"""What must hold for the sequences of a worker. Knows how blocks and sequences belong together; changes
nothing."""

from __future__ import annotations

from diptych.domain.errors import Bug
from diptych.scheduling.block_pool import BlockPool
from diptych.scheduling.queues import Roster
from diptych.scheduling.sequence import Sequence


def check_roster(roster: Roster, pool: BlockPool, max_running: int) -> None:
    """Raise `Bug` unless every running sequence has its blocks and all counts are right."""
    roster.decodes.check()
    if roster.running > max_running:
        raise Bug("too many sequences run")
    for sequence in [*roster.prefilling, *roster.fetching.sequences.values()]:
        _check_blocks(sequence, sequence.computed, pool)
    for sequence in roster.decodes.sequences:
        _check_blocks(sequence, roster.decodes.computed(sequence), pool)
    waiting = sum(item.remaining for item in roster.prefills.sequences)
    if waiting != roster.prefills.tokens:
        raise Bug(f"{roster.prefills.tokens} waiting tokens are counted, {waiting} wait")


def _check_blocks(sequence: Sequence, computed: int, pool: BlockPool) -> None:
    """All computed tokens have a block, and the one written next is nobody else's."""
    if sequence.capacity < computed:
        raise Bug(f"{sequence.request_id} has computed more than its blocks hold")
    to_write = sequence.block_table[computed // sequence.block_tokens :]
    shared = [block for block in to_write if not pool.is_exclusive(block)]
    if shared:
        raise Bug(f"{sequence.request_id} would write into blocks {shared} that others see")
