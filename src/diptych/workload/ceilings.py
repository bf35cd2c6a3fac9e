"""How much of its prompts a workload could find in a cache at best.

Knows: hash ids, and caches that forget the block unused for longest. Does not know: where caches are, what a
hit saves.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from diptych.domain.errors import SpecError
from diptych.workload.record import Arrival, Workload


@dataclass(frozen=True)
class PrefixCeiling:
    """Hits of an unbounded cache, and of bounded ones by their size in tokens."""

    requests: int
    tokens: int
    blocks: int
    distinct_blocks: int
    hit_blocks: int
    hit_tokens: int
    lru_hit_tokens: dict[int, int]
    """Size of a cache, tokens → tokens it finds."""

    @property
    def hit_block_share(self) -> float:
        """Hits of the unbounded cache among blocks, 0 to 1."""
        return self.hit_blocks / self.blocks if self.blocks else 0.0

    @property
    def hit_token_share(self) -> float:
        """Hits of the unbounded cache among tokens, 0 to 1."""
        return self.hit_tokens / self.tokens if self.tokens else 0.0

    def lru_token_share(self, capacity_tokens: int) -> float:
        """Hits of a cache of this size among tokens, 0 to 1."""
        return self.lru_hit_tokens[capacity_tokens] / self.tokens if self.tokens else 0.0


class PrefixWalk:
    """Walks each request's ids to the first that is not in the cache, then touches all of them.

    Memory: one entry a distinct block, and one a block of each bounded cache.
    """

    def __init__(self, block_tokens: int, capacities_tokens: Sequence[int] = ()) -> None:
        if small := [size for size in capacities_tokens if size < block_tokens]:
            raise SpecError(f"cache of {small[0]} tokens is smaller than one block of {block_tokens}")
        self._block_tokens = block_tokens
        self._seen: set[int] = set()
        self._caches = {size: _Lru(size // block_tokens) for size in capacities_tokens}
        self._hit_tokens = dict.fromkeys(capacities_tokens, 0)
        self._requests = self._tokens = self._blocks = self._hit_blocks = self._unbounded_tokens = 0

    def add(self, arrival: Arrival) -> None:
        """The next request of the workload."""
        ids = arrival.hash_ids
        self._requests += 1
        self._tokens += arrival.input_tokens
        self._blocks += len(ids)
        hits = 0
        for block in ids:
            if block not in self._seen:
                break
            hits += 1
        self._hit_blocks += hits
        self._unbounded_tokens += min(hits * self._block_tokens, arrival.input_tokens)
        self._seen.update(ids)
        for size, cache in self._caches.items():
            found = cache.leading(ids) * self._block_tokens
            self._hit_tokens[size] += min(found, arrival.input_tokens)
            cache.touch(ids)

    def result(self) -> PrefixCeiling:
        """All so far."""
        return PrefixCeiling(
            requests=self._requests,
            tokens=self._tokens,
            blocks=self._blocks,
            distinct_blocks=len(self._seen),
            hit_blocks=self._hit_blocks,
            hit_tokens=self._unbounded_tokens,
            lru_hit_tokens=dict(self._hit_tokens),
        )


def prefix_ceiling(workload: Workload, capacities_tokens: Sequence[int] = ()) -> PrefixCeiling:
    """Hits that the workload allows, in one pass. Raises `SpecError` for a cache below one block."""
    walk = PrefixWalk(workload.block_tokens, capacities_tokens)
    for arrival in workload:
        walk.add(arrival)
    return walk.result()


class _Lru:
    """So many blocks; the one unused for longest goes first."""

    def __init__(self, blocks: int) -> None:
        self._room = blocks
        self._held: OrderedDict[int, None] = OrderedDict()

    def leading(self, ids: Sequence[int]) -> int:
        held = self._held
        for place, block in enumerate(ids):
            if block not in held:
                return place
        return len(ids)

    def touch(self, ids: Sequence[int]) -> None:
        held = self._held
        for block in ids:
            if block in held:
                held.move_to_end(block)
            else:
                held[block] = None
        while len(held) > self._room:
            held.popitem(last=False)
