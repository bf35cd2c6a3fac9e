"""The pair that was chosen: this worker prefills, that one decodes, these cached blocks are used.

Knows: what the pair takes of each worker. Does not know: whether it may (filters) or should (scorers).
"""

from __future__ import annotations

from diptych.domain.ids import BlockHash
from diptych.orchestration.hits import Hits
from diptych.orchestration.ledger import Hold
from diptych.orchestration.registry import Worker


class Pair:
    """A request on a pair of workers; both may be the same.

    ``split``: whether the KV changes hands; ``streamed``: into another memory domain. ``blocks``: of the
    ``tokens`` that exist, and ``hashes`` of the whole ones. ``growth_blocks``: to set aside where it decodes,
    for the output; for the whole sequence if the KV is streamed. ``block_tokens``: of the blocks of both.
    """

    __slots__ = (
        "block_tokens",
        "blocks",
        "cached_tokens",
        "decode",
        "growth_blocks",
        "hashes",
        "hits",
        "prefill",
        "split",
        "streamed",
        "tokens",
    )

    def __init__(
        self,
        *,
        prefill: Worker,
        decode: Worker,
        streamed: bool,
        tokens: int,
        blocks: int,
        growth_blocks: int,
        hits: Hits,
        block_tokens: int,
        hashes: tuple[BlockHash, ...],
    ) -> None:
        self.prefill = prefill
        self.decode = decode
        self.split = prefill is not decode
        self.streamed = streamed
        self.tokens = tokens
        self.blocks = blocks
        self.growth_blocks = growth_blocks
        self.hits = hits
        self.cached_tokens = hits.blocks * block_tokens
        """Tokens that need no computing."""
        self.block_tokens = block_tokens
        self.hashes = hashes

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
