"""Rules of the block pool, one by one."""

from __future__ import annotations

import pytest

from diptych.domain.errors import Bug
from diptych.domain.events import BlocksCached, BlocksEvicted
from diptych.domain.ids import BlockHash, LeaseId
from diptych.domain.worker import Arena
from diptych.scheduling import BlockPool

A, B, C, D = (BlockHash(bytes([number] * 16)) for number in range(4))
LEASE = LeaseId("lease")


def pool_with_chain(blocks: int = 4) -> tuple[BlockPool, list[int]]:
    """A pool with A, B, C cached and idle, in this order of the chain."""
    pool = BlockPool(Arena(10, blocks))
    chain = pool.allocate(3)
    for name, block in zip((A, B, C), chain, strict=True):
        pool.publish([name], [block])
    pool.release(chain)
    pool.drain_news()
    return pool, chain


def test_counts_add_up_to_the_arena() -> None:
    pool, _ = pool_with_chain()
    pool.allocate(1)
    assert (pool.free_blocks, pool.cached_blocks, pool.held_blocks) == (0, 3, 1)
    pool.check([[13]], 0)


def test_free_blocks_are_taken_before_cached_ones_are_evicted() -> None:
    pool, chain = pool_with_chain()
    assert pool.allocate(1)[0] not in chain
    assert pool.drain_news() == []


def test_a_chain_is_evicted_from_its_end() -> None:
    pool, chain = pool_with_chain()
    pool.allocate(1)
    assert pool.allocate(2) == [chain[2], chain[1]]
    assert pool.drain_news() == [BlocksEvicted(hashes=(C, B))]
    assert pool.find(A) == chain[0]


def test_the_longest_idle_block_is_evicted_first() -> None:
    pool, chain = pool_with_chain(blocks=3)
    pool.hold([chain[2]])
    pool.release([chain[2]])  # used again: now the most recent
    assert pool.allocate(2) == [chain[1], chain[0]]


def test_a_held_cached_block_is_not_evicted() -> None:
    pool, chain = pool_with_chain(blocks=3)
    pool.hold([chain[0]])
    assert pool.available_blocks == 2
    assert chain[0] not in pool.allocate(2)
    with pytest.raises(Bug):
        pool.allocate(1)


def test_news_keep_their_order() -> None:
    pool, _ = pool_with_chain(blocks=3)
    block = pool.allocate(1)[0]  # evicts C
    pool.publish([C], [block])
    assert pool.drain_news() == [
        BlocksEvicted(hashes=(C,)),
        BlocksCached(hashes=(C,), block_ids=(block,)),
    ]
    assert pool.drain_news() == []


def test_content_is_published_once() -> None:
    pool, chain = pool_with_chain(blocks=5)
    twin = pool.allocate(1)
    pool.publish([A], [twin[0]])
    assert pool.find(A) == chain[0]
    pool.release(twin)
    assert (pool.free_blocks, pool.cached_blocks) == (2, 3)


def test_a_reservation_is_kept_from_others() -> None:
    pool = BlockPool(Arena(0, 4))
    assert pool.reserve(3)
    assert pool.available_blocks == 1
    assert not pool.reserve(2)
    pool.allocate(1)
    with pytest.raises(Bug):
        pool.allocate(1)
    assert [*pool.draw(), *pool.draw(2)] == [1, 2, 3]
    with pytest.raises(Bug):
        pool.draw()


def test_a_cancelled_reservation_is_available_again() -> None:
    pool = BlockPool(Arena(0, 4))
    pool.reserve(3)
    pool.cancel(3)
    assert pool.available_blocks == 4
    with pytest.raises(Bug):
        pool.cancel(1)


def test_prefix_hits_cannot_undermine_a_reservation() -> None:
    pool, chain = pool_with_chain(blocks=3)
    assert pool.reserve(2)
    pool.hold([chain[0]])
    with pytest.raises(Bug):
        pool.hold([chain[1]])
    pool.hold([chain[0]])  # held already: costs nothing
    assert pool.lend(LEASE, [A, B]) == (chain[0],)


def test_a_lease_is_the_longest_leading_run() -> None:
    pool, chain = pool_with_chain()
    assert pool.lend(LEASE, [A, B, D, C]) == (chain[0], chain[1])
    assert pool.held_blocks == 2
    pool.release_lease(LEASE)
    assert pool.held_blocks == 0


def test_an_empty_lease_does_not_exist() -> None:
    pool, _ = pool_with_chain()
    assert pool.lend(LEASE, [D, A]) == ()
    assert not pool.leases
    pool.release_lease(LEASE)
    pool.check((), 0)


def test_a_lease_name_is_used_once() -> None:
    pool, _ = pool_with_chain()
    pool.lend(LEASE, [A])
    with pytest.raises(Bug):
        pool.lend(LEASE, [B])
    with pytest.raises(Bug):
        pool.export(LEASE, [])


def test_two_holders_two_releases() -> None:
    pool, chain = pool_with_chain()
    pool.lend(LEASE, [A])
    pool.hold([chain[0]])
    pool.release_lease(LEASE)
    assert pool.held_blocks == 1
    pool.release([chain[0]])
    assert pool.held_blocks == 0
    with pytest.raises(Bug):
        pool.release([chain[0]])


def test_export_moves_references() -> None:
    pool = BlockPool(Arena(0, 4))
    blocks = pool.allocate(2)
    pool.export(LEASE, blocks)
    pool.check((), 0)
    pool.release_lease(LEASE)
    assert pool.free_blocks == 4


def test_adopted_blocks_stay_held_until_released() -> None:
    other = LeaseId("other")
    pool = BlockPool(Arena(0, 4), {LEASE: (1, 2), other: (2,)})
    assert sorted(pool.allocate(2)) == [0, 3]
    pool.release_lease(LEASE)
    assert (pool.free_blocks, pool.held_blocks) == (1, 3)
    pool.release_lease(other)
    assert pool.free_blocks == 2


def test_adopting_a_foreign_block_is_a_bug() -> None:
    with pytest.raises(Bug):
        BlockPool(Arena(0, 4), {LEASE: (4,)})


def test_check_notices_a_leak_and_a_lost_promise() -> None:
    pool = BlockPool(Arena(0, 4))
    pool.allocate(1)
    with pytest.raises(Bug):
        pool.check((), 0)
    pool.check([[0]], 0)
    with pytest.raises(Bug):
        pool.check([[0]], 1)


def test_a_free_block_cannot_be_held_or_published() -> None:
    pool = BlockPool(Arena(0, 4))
    with pytest.raises(Bug):
        pool.hold([0])
    with pytest.raises(Bug):
        pool.publish([A], [0])
