"""Any sequence of pool operations keeps every block accounted for, checked against a model of sets."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from diptych.domain.events import BlocksCached
from diptych.domain.ids import BlockHash, BlockId, LeaseId
from diptych.domain.worker import Arena
from diptych.scheduling import BlockPool

ARENA = Arena(100, 7)
ADOPTED = {LeaseId("adopted-0"): (100, 103), LeaseId("adopted-1"): (103,)}

pick = st.integers(0, 1000)


class BlockPoolMachine(RuleBasedStateMachine):
    """The model: who holds which blocks, which hashes are known outside, how many blocks are promised."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(ARENA, ADOPTED)
        self.holders: list[list[BlockId]] = []
        self.leases: dict[LeaseId, tuple[BlockId, ...]] = dict(ADOPTED)
        self.index: dict[BlockHash, BlockId] = {}
        self.reserved = 0
        self.names = 0

    def _held(self) -> set[BlockId]:
        return {block for blocks in [*self.holders, *self.leases.values()] for block in blocks}

    def _new_lease(self) -> LeaseId:
        self.names += 1
        return LeaseId(f"lease-{self.names}")

    @rule(blocks=st.integers(0, 4))
    def allocate(self, blocks: int) -> None:
        if blocks > self.pool.available_blocks:
            return
        before = self._held()
        taken = self.pool.allocate(blocks)
        assert len(set(taken)) == blocks and not before & set(taken)
        assert all(block in ARENA for block in taken)
        self.holders.append(taken)

    @rule(blocks=st.integers(0, 4))
    def reserve(self, blocks: int) -> None:
        room = self.pool.available_blocks
        assert self.pool.reserve(blocks) == (blocks <= room)
        self.reserved += blocks if blocks <= room else 0

    @precondition(lambda self: self.reserved)
    @rule()
    def draw(self) -> None:
        before = self._held()
        (block,) = self.pool.draw()
        assert block not in before
        self.holders.append([block])
        self.reserved -= 1

    @precondition(lambda self: self.reserved)
    @rule(which=pick)
    def cancel(self, which: int) -> None:
        blocks = 1 + which % self.reserved
        self.pool.cancel(blocks)
        self.reserved -= blocks

    @precondition(lambda self: self.holders)
    @rule(which=pick)
    def release(self, which: int) -> None:
        self.pool.release(self.holders.pop(which % len(self.holders)))

    @precondition(lambda self: any(self.holders))
    @rule(which=pick, number=st.integers(0, 9))
    def publish(self, which: int, number: int) -> None:
        blocks = [block for holder in self.holders for block in holder]
        block = blocks[which % len(blocks)]
        if block in self.index.values():
            return
        name = BlockHash(bytes([number] * 16))
        self._hear()
        self.pool.publish([name], [block])
        assert (self.pool.find(name) == block) == (name not in self.index)

    @rule(numbers=st.lists(st.integers(0, 9), max_size=4, unique=True))
    def hold_cached(self, numbers: list[int]) -> None:
        """A prefix match."""
        found = [self.pool.find(BlockHash(bytes([number] * 16))) for number in numbers]
        blocks = [block for block in found if block is not None]
        if sum(self.pool.is_idle(block) for block in blocks) <= self.pool.available_blocks:
            self.pool.hold(blocks)
            self.holders.append(blocks)

    @rule(numbers=st.lists(st.integers(0, 9), max_size=4, unique=True))
    def lend(self, numbers: list[int]) -> None:
        hashes = [BlockHash(bytes([number] * 16)) for number in numbers]
        self._hear()
        lease = self._new_lease()
        lent = self.pool.lend(lease, hashes)
        assert list(lent) == [self.index.get(name) for name in hashes[: len(lent)]]
        if len(lent) < len(hashes) and hashes[len(lent)] in self.index:
            assert self.pool.available_blocks == 0, "a cached block was not lent without need"
        assert (lease in self.pool.leases) == bool(lent)
        if lent:
            self.leases[lease] = lent

    @precondition(lambda self: self.holders)
    @rule(which=pick)
    def export(self, which: int) -> None:
        lease, blocks = self._new_lease(), self.holders.pop(which % len(self.holders))
        before = self.pool.held_blocks
        self.pool.export(lease, blocks)
        assert self.pool.held_blocks == before
        self.leases[lease] = tuple(blocks)

    @precondition(lambda self: self.leases)
    @rule(which=pick)
    def release_lease(self, which: int) -> None:
        lease = sorted(self.leases)[which % len(self.leases)]
        del self.leases[lease]
        self.pool.release_lease(lease)
        self.pool.release_lease(lease)  # unknown by now: ignored

    def _hear(self) -> None:
        """Follow the news as an index elsewhere would."""
        for event in self.pool.drain_news():
            if isinstance(event, BlocksCached):
                self.index.update(zip(event.hashes, event.block_ids, strict=True))
            else:
                for name in event.hashes:
                    del self.index[name]

    @invariant()
    def holds_together(self) -> None:
        self._hear()
        self.pool.check(self.holders, self.reserved)
        held = self._held()
        assert self.pool.held_blocks == len(held)
        assert self.pool.cached_blocks == len(set(self.index.values()) - held)
        assert self.pool.free_blocks == ARENA.blocks - len(held | set(self.index.values()))
        for name, block in self.index.items():
            assert self.pool.find(name) == block

    def teardown(self) -> None:
        for blocks in self.holders:
            self.pool.release(blocks)
        for lease in list(self.leases):
            self.pool.release_lease(lease)
        self.pool.cancel(self.reserved)
        assert self.pool.held_blocks == 0
        assert self.pool.available_blocks == ARENA.blocks
        self.pool.check((), 0)


TestBlockPool = BlockPoolMachine.TestCase
TestBlockPool.settings = settings(max_examples=100, stateful_step_count=40, deadline=None, derandomize=True)
