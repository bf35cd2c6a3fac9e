"""KV blocks follow the trace where nobody says otherwise."""

from __future__ import annotations

from diptych.domain.cluster import ClusterSpec, KVSpec, PoolSpec
from diptych.domain.worker import Role
from diptych.planning.granularity import in_blocks_of
from diptych.workload.record import Arrival, Workload

POOLS = (PoolSpec(name="mixed", role=Role.MIXED),)


def _workload(hash_ids: tuple[int, ...], block_tokens: int) -> Workload:
    arrival = Arrival(t_s=0.0, input_tokens=1000, output_tokens=1, hash_ids=hash_ids)
    return Workload("w", lambda: iter([arrival]), block_tokens)


def test_blocks_of_the_trace_unless_the_spec_names_its_own() -> None:
    named = _workload((1, 2), 512)
    assert in_blocks_of(ClusterSpec(pools=POOLS), named).kv.block_tokens == 512
    own = ClusterSpec(pools=POOLS, kv=KVSpec(block_tokens=16))
    assert in_blocks_of(own, named) is own
    other = ClusterSpec(pools=POOLS, kv=KVSpec(prompt_cache=False))
    assert in_blocks_of(other, named).kv == KVSpec(prompt_cache=False, block_tokens=512)


def test_a_workload_without_prefixes_or_with_blocks_that_do_not_fit_changes_nothing() -> None:
    spec = ClusterSpec(pools=POOLS)
    for workload in (_workload((), 512), _workload((1,), 8), _workload((1,), 100), _workload((1,), 4096)):
        assert in_blocks_of(spec, workload) is spec
    assert in_blocks_of(spec, Workload("empty", lambda: iter(()), 512)) is spec
