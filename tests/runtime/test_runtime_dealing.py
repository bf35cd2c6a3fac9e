"""Arenas never overlap; cores are dealt as the spec says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.adapters.toy import toy_layout
from diptych.domain.cluster import ClusterSpec, KVSpec, PoolSpec
from diptych.domain.errors import SpecError
from diptych.domain.worker import Role
from diptych.runtime.dealing import MIN_WORKER_BLOCKS, deal, deal_arenas, deal_cores

LAYOUT = toy_layout(4)
P = PoolSpec(name="p", role=Role.PREFILL)
D = PoolSpec(name="d", role=Role.DECODE)


@given(st.lists(st.sampled_from(Role), min_size=1, max_size=40), st.integers(2 * MIN_WORKER_BLOCKS, 1000))
def test_arenas_lie_side_by_side_and_fit(roles: list[Role], blocks: int) -> None:
    memory_bytes = len(roles) * blocks * LAYOUT.block_bytes
    arenas = deal_arenas(memory_bytes, LAYOUT, roles)
    sizes = {role: arena.blocks for role, arena in zip(roles, arenas, strict=True)}
    assert all(arena.blocks == sizes[role] for role, arena in zip(roles, arenas, strict=True))
    ids = [block for arena in arenas for block in range(arena.start, arena.start + arena.blocks)]
    assert ids == list(range(len(ids)))
    assert LAYOUT.segment_bytes(len(ids)) <= memory_bytes


def test_too_little_memory_names_the_key_and_enough() -> None:
    with pytest.raises(SpecError, match=r"kv\.memory_bytes") as caught:
        deal_arenas(LAYOUT.block_bytes, LAYOUT, [Role.PREFILL, Role.DECODE])
    enough = int(str(caught.value).split()[-1])
    arenas = deal_arenas(enough, LAYOUT, [Role.PREFILL, Role.DECODE])
    assert [arena.blocks for arena in arenas] == [2 * MIN_WORKER_BLOCKS, MIN_WORKER_BLOCKS]


@pytest.mark.parametrize(
    ("pools", "machine", "expected"),
    [
        ((P, D), (0, 1), ((0,), (1,))),
        ((P, D), (0, 1, 2, 3, 4), ((0, 1), (2, 3, 4))),
        ((P, D), (3,), ((3,), (3,))),
        ((PoolSpec(name="p", role=Role.PREFILL, workers=2), D), (0, 1), ((0,), (1,), (0,))),
        ((PoolSpec(name="p", role=Role.PREFILL, cores=((1,),)), D), (0, 1), ((1,), (0,))),
        ((PoolSpec(name="m", role=Role.MIXED, cores=((0, 1),)),), (0, 1), ((0, 1),)),
    ],
)
def test_cores(pools: tuple[PoolSpec, ...], machine: tuple[int, ...], expected: tuple[object, ...]) -> None:
    assert deal_cores(pools, machine) == expected


def test_cores_that_the_machine_lacks_are_named() -> None:
    with pytest.raises(SpecError, match=r"\[9\]"):
        deal_cores((PoolSpec(name="p", role=Role.PREFILL, cores=((0, 9),)),), (0, 1))


def test_threads_follow_the_cores_unless_the_pool_says() -> None:
    pools = (P, PoolSpec(name="d", role=Role.DECODE, threads=7))
    spec = ClusterSpec(pools=pools, kv=KVSpec(memory_bytes=1 << 20))
    shares = deal(spec, LAYOUT, (0, 1, 2, 3))
    assert [(share.worker_id, share.threads) for share in shares] == [("p-0", 2), ("d-0", 7)]
