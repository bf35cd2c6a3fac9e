"""What a scheduler is told about its worker. Knows sizes and limits only."""

from __future__ import annotations

import msgspec

from diptych.domain.errors import SpecError
from diptych.domain.worker import Arena


class SchedulerConfig(msgspec.Struct, frozen=True):
    """One worker. With ``token_budget`` ≥ ``max_running`` every running sequence advances in every step."""

    arena: Arena
    block_tokens: int
    token_budget: int
    """Most tokens of one step."""
    max_running: int
    """Most sequences that hold blocks, hence most sequences of one step."""
    block_bytes: int
    """KV bytes of one block over all layers."""
    prompt_cache: bool = True
    """Whether full blocks are named and kept when their sequence ends."""
    chunked_prefill: bool = True
    """Whether prompts are cut to fit the budget and run beside decodes. False: each runs whole, in a step
    that holds prompts only (as many as fit, at least one), and decodes wait meanwhile."""

    def __post_init__(self) -> None:
        sizes = (self.arena.blocks, self.block_tokens, self.token_budget, self.max_running, self.block_bytes)
        if min(sizes) < 1:
            raise SpecError(f"every size of a scheduler's configuration must be positive: {self}")
