"""One request of a workload, and a workload.

Knows: what a trace can say of a request. Does not know: files, hardware, how requests are served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

DEFAULT_BLOCK_TOKENS = 512
"""Tokens that one hash id of the native form stands for (Mooncake's published traces)."""


class Arrival(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request as a workload has it. Times in seconds from the start of the workload.

    ``hash_ids`` names the blocks of the prompt, ``Workload.block_tokens`` tokens each and the last one
    possibly partly filled: equal leading ids mean equal prefixes. Empty: nothing is known, nothing is shared.
    """

    t_s: float
    input_tokens: int
    output_tokens: int
    hash_ids: tuple[int, ...] = ()
    session_id: str | None = None
    """Requests of one session run one after the other, in the order of the workload."""
    delay_s: float | None = None
    """Pause after the end of the session's request before (a tool's run, a person's reading). Then ``t_s``
    is only the earliest time. None: starts at ``t_s`` whatever its session does."""
    priority: int = 0
    max_tokens: int | None = None
    """What the client allows; None: its true output length is not known to anyone before it ends."""


@dataclass(frozen=True)
class Workload:
    """Arrivals by rising ``t_s``, made anew for each reader so that a long one need not be held in memory."""

    name: str
    arrivals: Callable[[], Iterator[Arrival]]
    block_tokens: int = DEFAULT_BLOCK_TOKENS
    requests: int | None = None
    """How many there are, where that is known beforehand."""
    notes: tuple[str, ...] = field(default=())
    """Where it comes from, and what reading or converting it lost."""

    def __iter__(self) -> Iterator[Arrival]:
        return self.arrivals()
