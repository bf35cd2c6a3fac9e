"""From a workload's record to the request that the cluster sees.

Knows: how hash ids name KV blocks of another size, what a policy may know of a request. Does not know: time,
workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from diptych.domain.errors import SpecError
from diptych.domain.ids import BlockHash, RequestId
from diptych.domain.kv import HASH_BYTES, hash_root
from diptych.domain.request import Request, SamplingParams
from diptych.planning.worker import END
from diptych.workload.record import Arrival

ROOT: Final = hash_root("virtual", "")
_UNIQUE: Final = 1 << (8 * HASH_BYTES - 2)
"""Numbers from here on name blocks that no other request has."""


def request_maker(
    *, kv_block_tokens: int, trace_block_tokens: int, max_model_tokens: int, prompt_cache: bool
) -> Callable[[int, Arrival], Request]:
    """A function from (running number, arrival) to a request.

    The tokens themselves do not exist: zeros stand for them, in the form that is cut and copied fastest. The
    limit on the output is what the client allows, else what the model's context leaves: never the true
    length.

    Raises:
        SpecError: neither block size is a multiple of the other.
    """
    if trace_block_tokens % kv_block_tokens and kv_block_tokens % trace_block_tokens:
        raise SpecError(
            f"kv.block_tokens = {kv_block_tokens} and the workload's blocks of {trace_block_tokens} tokens "
            "do not divide each other; set kv.block_tokens to a divisor, or write the workload anew with "
            f"`diptych workload convert --to-block-tokens {kv_block_tokens} IN OUT`"
        )
    zeros = memoryview(bytes(4 * max_model_tokens)).cast("I")
    split = max(1, trace_block_tokens // kv_block_tokens)
    joined = max(1, kv_block_tokens // trace_block_tokens)

    def make(number: int, arrival: Arrival) -> Request:
        tokens = arrival.input_tokens
        hashes: tuple[BlockHash, ...] = ()
        if prompt_cache:
            blocks = tokens // kv_block_tokens
            hashes = _known(arrival.hash_ids, split, joined, blocks)
            if len(hashes) < blocks:
                hashes += _unique(number, len(hashes), blocks)
        limit = arrival.max_tokens or max(1, max_model_tokens - tokens)
        return Request(
            request_id=RequestId(str(number).zfill(8)),  # compiled code asks a format for its parts each time
            prompt_token_ids=zeros[:tokens] if tokens <= len(zeros) else bytes(tokens),
            cache_root=ROOT,
            block_hashes=hashes,
            sampling=SamplingParams(max_tokens=limit, seed=number, stop_token_ids=(END,)),
            priority=arrival.priority,
        )

    return make


def _known(ids: Sequence[int], split: int, joined: int, blocks: int) -> tuple[BlockHash, ...]:
    """Names of whole KV blocks: a trace's block is cut into ``split``, or ``joined`` of them make one (whose
    last id names it: equal ids mean equal prefixes)."""
    if joined > 1:
        ids = ids[joined - 1 :: joined]
    if split == 1:
        return tuple([BlockHash(i.to_bytes(HASH_BYTES, "little")) for i in ids[:blocks]])
    wanted = -(-blocks // split)
    names = [i * split + part for i in ids[:wanted] for part in range(split)]
    return tuple([BlockHash(name.to_bytes(HASH_BYTES, "little")) for name in names[:blocks]])


def _unique(number: int, start: int, stop: int) -> tuple[BlockHash, ...]:
    base = _UNIQUE + (number << 32)
    return tuple([BlockHash((base + i).to_bytes(HASH_BYTES, "little")) for i in range(start, stop)])
