"""The prefix index against a list of who cached what in which order, by random steps."""

from __future__ import annotations

import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from diptych.domain.ids import BlockHash, BlockId, DomainId, WorkerId
from diptych.orchestration.prefix_index import PrefixIndex

WORKERS = tuple(WorkerId(f"w{i}") for i in range(4))
DOMAIN_OF = {worker: DomainId(f"d{i // 3}") for i, worker in enumerate(WORKERS)}
"""Three workers share a domain, one is alone."""
HASHES = tuple(BlockHash(bytes([i]) * 16) for i in range(6))

workers = st.sampled_from(WORKERS)
blocks = st.dictionaries(st.sampled_from(HASHES), st.integers(0, 1 << 40), max_size=6)


class IndexMachine(RuleBasedStateMachine):
    """``model``: by domain and hash, who has it and where, the first first."""

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex()
        self.model: dict[DomainId, dict[BlockHash, dict[WorkerId, BlockId]]] = {
            domain: {block_hash: {} for block_hash in HASHES} for domain in DOMAIN_OF.values()
        }

    @rule(worker=workers, named=blocks)
    def cached(self, worker: WorkerId, named: dict[BlockHash, int]) -> None:
        ids = tuple(BlockId(block) for block in named.values())
        self.index.cached(DOMAIN_OF[worker], worker, tuple(named), ids)
        for block_hash, block_id in zip(named, ids, strict=True):
            self.model[DOMAIN_OF[worker]][block_hash][worker] = block_id

    @rule(worker=workers, hashes=st.lists(st.sampled_from(HASHES), max_size=6))
    def evicted(self, worker: WorkerId, hashes: list[BlockHash]) -> None:
        self.index.evicted(worker, tuple(hashes))
        for block_hash in hashes:
            self.model[DOMAIN_OF[worker]][block_hash].pop(worker, None)

    @rule(worker=workers)
    def forget(self, worker: WorkerId) -> None:
        self.index.forget(worker)
        for owners in self.model[DOMAIN_OF[worker]].values():
            owners.pop(worker, None)

    @rule(domain=st.sampled_from([*DOMAIN_OF.values()]), wanted=st.permutations(HASHES))
    def leading(self, domain: DomainId, wanted: list[BlockHash]) -> None:
        run = self.index.leading(domain, wanted)
        found = [
            {holder.owner: holder.ids([block_hash])[0] for holder in stretch.holders}
            for stretch in run
            for block_hash in wanted[stretch.start : stretch.stop]
        ]
        due = [self.model[domain][block_hash] for block_hash in wanted]
        due = due[: next((i for i, owners in enumerate(due) if not owners), len(due))]
        assert [list(owners.items()) for owners in found] == [list(owners.items()) for owners in due]
        assert all(one.holders != other.holders for one, other in itertools.pairwise(run))

    @invariant()
    def counts(self) -> None:
        for worker, domain in DOMAIN_OF.items():
            due = sum(worker in owners for owners in self.model[domain].values())
            assert self.index.owned_blocks(worker) == due
            assert (worker in self.index.owners()) == (due > 0)


TestPrefixIndex = IndexMachine.TestCase
TestPrefixIndex.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
