"""What the cluster knows of a worker.

Knows: role, arena, capacity and load figures. Does not know: processes, sockets, engines.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from diptych.domain.ids import BlockId, DomainId, WorkerId


class Role(StrEnum):
    """What a worker is for. A word of the orchestrator: engines do not know theirs."""

    PREFILL = "prefill"
    DECODE = "decode"
    MIXED = "mixed"


class Arena(msgspec.Struct, frozen=True, gc=False):
    """The block ids ``[start, start + blocks)`` that one worker allocates from; nobody else does."""

    start: BlockId
    blocks: int

    def __contains__(self, block_id: BlockId) -> bool:
        return self.start <= block_id < self.start + self.blocks


class WorkerInfo(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One incarnation of a worker, as it announces itself."""

    worker_id: WorkerId
    incarnation: int
    """Rises with every restart: what an earlier incarnation said is void."""
    pool: str
    role: Role
    domain_id: DomainId
    arena: Arena
    block_tokens: int
    block_bytes: int
    token_budget: int
    """Most tokens of one step (the chunk size)."""
    max_running: int
    """Most sequences of one step."""
    device: str = "cpu"
    cores: tuple[int, ...] = ()


class WorkerStats(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Load of a worker at one moment, and totals since it started."""

    steps: int = 0
    busy: bool = False
    """Whether a step is under way or could be: busy without a new step for long is a stall."""
    waiting: int = 0
    running: int = 0
    queued_tokens: int = 0
    """Prompt tokens that wait or are half done."""
    free_blocks: int = 0
    """Blocks that hold nothing."""
    cached_blocks: int = 0
    """Blocks that only the prompt cache holds (given up when needed)."""
    held_blocks: int = 0
    """Blocks that requests or leases hold."""
    reserved_blocks: int = 0
    """Promised to requests that have not taken them yet; still counted free or cached."""
    leases: int = 0
    prefill_tokens_total: int = 0
    decode_tokens_total: int = 0
    prefill_s_total: float = 0.0
    """Seconds of steps that ran prompt tokens."""
    decode_s_total: float = 0.0
    """Seconds of steps that ran decode tokens only."""
    decode_steps_total: int = 0
    """Steps that ran decode tokens only."""
