"""What a KV block is: its shape in bytes, and the chained hash that names its content.

Knows: layout arithmetic and hashing. Does not know: tensors, who owns a block, where the memory is.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b
from struct import pack
from typing import Final

import msgspec

from diptych.domain.errors import SpecError
from diptych.domain.ids import BlockHash, TokenId

HASH_BYTES: Final = 16
"""Digest size of a block hash: 128 bits make an accidental collision out of reach."""

IN_PLACE: Final = array("I", (1,)).tobytes() == b"\x01\x00\x00\x00"
"""Whether an array of 32-bit numbers stands in memory as tokens are hashed."""

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one KV element by dtype name."""


class KVLayout(msgspec.Struct, frozen=True, kw_only=True):
    """Shape of the KV memory of one memory domain.

    Per layer there are two arrays (K, then V) of shape ``[blocks, kv_heads, block_tokens, head_dim]``:
    head-major, so that one head's keys of one block are contiguous for decode attention.
    """

    layers: int
    kv_heads: int
    head_dim: int
    block_tokens: int
    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BYTES:
            raise SpecError(f"kv dtype {self.dtype!r} is not one of {sorted(DTYPE_BYTES)}")
        if min(self.layers, self.kv_heads, self.head_dim, self.block_tokens) < 1:
            raise SpecError(f"every size of a KV layout must be positive: {self}")

    @property
    def plane_block_bytes(self) -> int:
        """Bytes of one block in one plane (K or V of one layer)."""
        return self.kv_heads * self.block_tokens * self.head_dim * DTYPE_BYTES[self.dtype]

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all layers, K and V."""
        return 2 * self.layers * self.plane_block_bytes

    @property
    def token_bytes(self) -> int:
        """KV bytes of one token over all layers."""
        return self.block_bytes // self.block_tokens

    def plane_offset_bytes(self, layer: int, value: bool, blocks: int) -> int:
        """Where K (or V, if ``value``) of ``layer`` starts in a segment of ``blocks`` blocks."""
        return (2 * layer + int(value)) * blocks * self.plane_block_bytes

    def segment_bytes(self, blocks: int) -> int:
        """Bytes of a whole segment of ``blocks`` blocks."""
        return blocks * self.block_bytes


def blocks_for(tokens: int, block_tokens: int) -> int:
    """Blocks that hold ``tokens`` tokens."""
    return -(-tokens // block_tokens)


def hash_root(model: str, salt: str) -> BlockHash:
    """Parent of the first block. Another model or another tenant's salt shares no hash."""
    return BlockHash(blake2b(f"{model}\x00{salt}".encode(), digest_size=HASH_BYTES).digest())


def extend_hashes(
    parent: BlockHash, token_ids: Sequence[TokenId], block_tokens: int
) -> tuple[BlockHash, ...]:
    """Hashes of the full blocks of ``token_ids``, the first chained to ``parent``.

    A trailing part shorter than a block has no hash.
    """
    chain: list[BlockHash] = []
    for start in range(0, len(token_ids) - block_tokens + 1, block_tokens):
        parent = next_hash(parent, token_bytes(token_ids[start : start + block_tokens]))
        chain.append(parent)
    return tuple(chain)


def next_hash(parent: BlockHash, content: bytes) -> BlockHash:
    """Hash of the block behind ``parent`` whose tokens are ``content``, as `token_bytes` gives them."""
    return BlockHash(blake2b(parent + content, digest_size=HASH_BYTES).digest())


def token_bytes(token_ids: Sequence[TokenId]) -> bytes:
    """Tokens as they are hashed: 32 bits each, little-endian. Those that stand like that in memory (an array
    or a view with 4-byte items) are taken as they stand."""
    if isinstance(token_ids, (array, memoryview)) and token_ids.itemsize == 4 and IN_PLACE:
        return token_ids.tobytes()
    return pack(f"<{len(token_ids)}I", *token_ids)
