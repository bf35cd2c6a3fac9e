"""Names of things. Knows only what identifies what; does not know what the things are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NewType, TypeAlias

RequestId = NewType("RequestId", str)
"""One request inside the cluster; unique for the life of the head process."""

WorkerId = NewType("WorkerId", str)
"""One schedulable engine; survives restarts (its incarnation number does not)."""

DomainId = NewType("DomainId", str)
"""One memory domain: workers that can address the same KV bytes."""

LeaseId = NewType("LeaseId", str)
"""One borrower's claim on some blocks of one owner."""

BlockHash = NewType("BlockHash", bytes)
"""Chained 16-byte hash of a full block and of everything before it."""

BlockId: TypeAlias = int
"""Index of a KV block; global in its memory domain."""

TokenId: TypeAlias = int
"""Index into the model's vocabulary."""

if TYPE_CHECKING:
    Tokens: TypeAlias = Sequence[TokenId]
    """Tokens of a request. A tuple on every wire; where nobody reads the tokens, `bytes` will do."""
else:
    Tokens = tuple[TokenId, ...]
