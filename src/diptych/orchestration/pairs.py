"""The pair that was chosen: this worker prefills, that one decodes, these cached blocks are used.

Knows: what the pair takes of each worker. Does not know: whether it may (filters) or should (scorers).
"""

from __future__ import annotations

from dataclasses import dataclass

from diptych.domain.ids import BlockHash
from diptych.orchestration.hits import Hits
from diptych.orchestration.ledger import Hold
from diptych.orchestration.registry import Worker


@dataclass(slots=True)
class Pair:
    """A request on a pair of workers; both may be the same."""

    prefill: Worker
    decode: Worker
    split: bool
    """Whether the KV changes hands."""
    streamed: bool
    """Whether the KV goes into another memory domain."""
    tokens: int
    blocks: int
    """Blocks of the tokens that exist."""
    growth_blocks: int
    """Blocks to set aside where it decodes: for the output; for the whole sequence if the KV is streamed."""
    hits: Hits
    cached_tokens: int
    """Tokens that need no computing."""
    block_tokens: int
    """Size of the blocks of both."""
    hashes: tuple[BlockHash, ...]
    """Of the whole blocks that exist."""

    def prefill_hold(self) -> Hold:
        """What the prefill worker is charged while it computes the prompt."""
        split, hits = self.split, self.hits
        return Hold(
            blocks=self.blocks - hits.blocks + (0 if split else self.growth_blocks),
            pins=hits.own_ids(self.prefill.worker_id, self.hashes) if hits.own else (),
            prefill_tokens=self.tokens - self.cached_tokens,
            decodes=0 if split else 1,
            context_tokens=0 if split else self.tokens,
        )

    def decode_hold(self) -> Hold:
        """What another decode worker is charged from the placement on."""
        return Hold(blocks=self.growth_blocks, decodes=1, context_tokens=self.tokens)
