"""In which blocks KV memory is counted when nobody says.

Knows: the spec, the blocks in which a trace names its prefixes. Does not know: what a simulation does with
them.
"""

from __future__ import annotations

from diptych.domain.cluster import ClusterSpec, KVSpec
from diptych.workload.record import Workload

MOST_BLOCK_TOKENS = 1024
"""As a spec allows."""


def in_blocks_of(spec: ClusterSpec, workload: Workload) -> ClusterSpec:
    """``spec`` with the workload's block size, if the spec names none and the workload's is larger.

    A trace that names prefixes in blocks of 512 tokens cannot tell smaller ones apart: with the default of 16
    the same hits would be found, in 32 times as many steps. What is lost is how full each sequence's last
    block is; so a workload that names no prefixes keeps the spec's blocks.
    """
    size = workload.block_tokens
    named = "kv" in spec.model_fields_set and "block_tokens" in spec.kv.model_fields_set
    default = KVSpec().block_tokens
    if named or not default < size <= MOST_BLOCK_TOKENS or size % default or not _names_blocks(workload):
        return spec
    kv = spec.kv.model_copy(update={"block_tokens": size})
    return spec.model_copy(update={"kv": kv})


def _names_blocks(workload: Workload) -> bool:
    first = next(iter(workload), None)
    return first is not None and bool(first.hash_ids)
