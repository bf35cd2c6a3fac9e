"""Hash ids for another block size, and ids that stand for a whole prefix.

Knows: what ids mean: the n-th id names the n-th block, equal leading ids mean an equal prefix. Does not know:
what is in a block, caches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from math import gcd

import msgspec

from diptych.domain.errors import SpecError
from diptych.workload.record import Arrival, Workload

ID_MASK = (1 << 63) - 1
"""Ids that are made up stay positive 64-bit numbers."""
MIXER = 0x9E3779B97F4A7C15
"""Odd multiplier of the polynomial hash (the golden ratio in 64 bits)."""


def chained(ids: Iterable[int]) -> tuple[int, ...]:
    """Ids of whole prefixes out of ids of single blocks: equal only where all blocks before are equal too."""
    return tuple(accumulate(ids, _mixed, initial=0))[1:]


def split(ids: Iterable[int], parts: int, input_tokens: int, block_tokens: int) -> tuple[int, ...]:
    """Each block cut into ``parts``; ``block_tokens`` is the size afterwards. Nothing is lost."""
    fine = [block * parts + part for block in ids for part in range(parts)]
    return tuple(fine[: -(-input_tokens // block_tokens)])


def merged(ids: tuple[int, ...], parts: int) -> tuple[int, ...]:
    """Runs of ``parts`` blocks as one. What a run shares with another only in part is no longer seen."""
    runs = (ids[start : start + parts] for start in range(0, len(ids), parts))
    return tuple(accumulate((chained((len(run), *run))[-1] for run in runs), _mixed, initial=0))[1:]


def reblocked(workload: Workload, block_tokens: int) -> Workload:
    """The same workload with ids for blocks of another size; the notes say what that loses."""
    if block_tokens < 1:
        raise SpecError(f"block_tokens: {block_tokens} is not possible; at least 1")
    old = workload.block_tokens
    if block_tokens == old:
        return workload
    common = gcd(old, block_tokens)

    def arrivals() -> Iterator[Arrival]:
        for arrival in workload:
            ids = arrival.hash_ids
            if old != common:
                ids = split(ids, old // common, arrival.input_tokens, common)
            if block_tokens != common:
                ids = merged(ids, block_tokens // common)
            yield msgspec.structs.replace(arrival, hash_ids=ids)

    note = f"hash ids made for blocks of {block_tokens} tokens out of {old}"
    if block_tokens != common:
        note += "; prefixes are shared in whole blocks only, so less is shared"
    return Workload(workload.name, arrivals, block_tokens, workload.requests, (*workload.notes, note))


def _mixed(before: int, block: int) -> int:
    return (before * MIXER + block + 1) & ID_MASK
