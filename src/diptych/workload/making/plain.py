"""Requests without sessions: instants, lengths, and a shared beginning.

Knows: how much of a prompt is a known prefix. Does not know: where instants and lengths come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from diptych.workload.making.context import Ids
from diptych.workload.record import Arrival


@dataclass(frozen=True)
class Plain:
    """``cached`` of each prompt, in whole blocks, is the beginning of one of ``prefixes`` endless texts."""

    lengths: Callable[[Random], tuple[int, int]]
    cached: float
    prefixes: int
    block_tokens: int

    def arrivals(self, starts: Iterator[float], rng: Random) -> Iterator[Arrival]:
        """One request for each instant. Without a shared beginning there are no ids: nothing is shared."""
        ids = Ids(self.prefixes)
        for t_s in starts:
            input_tokens, output_tokens = self.lengths(rng)
            yield Arrival(
                t_s=t_s,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                hash_ids=self._ids(input_tokens, ids, rng) if self.cached else (),
            )

    def _ids(self, input_tokens: int, ids: Ids, rng: Random) -> tuple[int, ...]:
        family = rng.randrange(self.prefixes)
        blocks = -(-input_tokens // self.block_tokens)
        shared = min(round(self.cached * input_tokens / self.block_tokens), input_tokens // self.block_tokens)
        return (*ids.shared(family, shared), *ids.fresh(blocks - shared))
