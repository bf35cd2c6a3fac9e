"""One request on this worker. Knows its tokens, its blocks and how far it has come. Does not know other
sequences, nor where blocks come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from diptych.domain.commands import StartDecode, StartPrefill
from diptych.domain.errors import Bug
from diptych.domain.ids import BlockHash, BlockId, LeaseId, RequestId, TokenId, WorkerId
from diptych.domain.kv import blocks_for, extend_hashes
from diptych.domain.request import FinishReason, Phase, Work
from diptych.domain.step import NewSequence, Slice


@dataclass(slots=True, eq=False)
class Sequence:
    """State of one attempt of one request.

    Who owns which part of ``block_table`` (block_tokens = 4, 18 tokens, 13 of them computed)::

        prefill   | borrowed | cached here | computed here      |   reads, then writes from `computed` on
        decode    | borrowed | borrowed    | copied | grown ... |   imported: only the last is written
        decode    | cached here | fetched           | grown ... |   imported from another domain: all own
                  |◀─ foreign or shared ──▶|◀─ own, exclusive ─▶|

    ``own_blocks`` are those for which this sequence holds a reference in the worker's pool: all but the
    borrowed ones, which another worker's lease keeps alive. Published blocks stay own until the end, but
    are never written again.
    """

    work: Work
    block_tokens: int
    phase: Phase
    borrowed: Mapping[int, BlockId] = field(default_factory=dict[int, BlockId])
    """Offered blocks of other arenas by index in the sequence; those that continue the prefix are used."""
    export_lease: LeaseId | None = None
    imported_blocks: tuple[BlockId, ...] = ()
    """Blocks in which the KV of an imported sequence stands; the last one may be partly filled."""
    source: WorkerId | None = None
    """Who has those blocks in another memory domain; None: they can be borrowed."""
    copied_blocks: int = 0
    """Blocks whose content was copied or fetched to start here."""
    tokens: list[TokenId] = field(init=False)
    hashes: list[BlockHash] = field(init=False)
    reserved_blocks: int = 0
    """Blocks promised to this sequence and not drawn yet."""
    computed: int = 0
    """KV of so many leading tokens is in the blocks."""
    block_table: list[BlockId] = field(default_factory=list[BlockId])
    own_blocks: list[BlockId] = field(default_factory=list[BlockId])
    settled_blocks: int = 0
    """Leading full blocks that need no publishing any more (or never did: somebody else computed them)."""
    dropped: bool = False
    """Ordered to end while a step computes with it: ends when that step is committed."""
    drop_answers: int = 0
    """So many orders wait for their `Dropped`."""

    def __post_init__(self) -> None:
        self.tokens = list(self.work.token_ids)
        self.hashes = list(self.work.block_hashes)

    @classmethod
    def to_prefill(cls, command: StartPrefill, block_tokens: int) -> Sequence:
        """A sequence that starts with computing its tokens."""
        if not command.work.token_ids:
            raise Bug(f"request {command.work.request_id} has no tokens")
        return cls(
            command.work,
            block_tokens,
            Phase.PREFILL,
            borrowed=command.borrowed,
            export_lease=command.export_lease,
        )

    @classmethod
    def to_expect(cls, work: Work, block_tokens: int) -> Sequence:
        """A sequence that is to be decoded here once it has been prefilled elsewhere."""
        return cls(work, block_tokens, Phase.DECODE)

    def take_over(self, command: StartDecode) -> None:
        """Its KV stands in blocks of others, for all tokens but the last."""
        self.tokens.extend(command.new_token_ids)
        self.computed = command.computed_tokens
        self.imported_blocks = command.block_ids
        self.source = command.source
        if self.remaining != 1:
            raise Bug(f"{self.request_id}: KV of {self.computed} tokens for {len(self.tokens)} tokens")
        if len(command.block_ids) != blocks_for(self.computed, self.block_tokens):
            raise Bug(f"{self.request_id}: {len(command.block_ids)} blocks for {self.computed} tokens")

    @property
    def request_id(self) -> RequestId:
        """The request's name."""
        return self.work.request_id

    @property
    def attempt(self) -> int:
        """Which attempt of the request this is."""
        return self.work.attempt

    @property
    def order(self) -> tuple[int, float, RequestId]:
        """Smaller runs sooner and is bounced later: priority, then arrival; the name breaks ties."""
        return (self.work.priority, self.work.arrival_s, self.work.request_id)

    @property
    def remaining(self) -> int:
        """Tokens whose KV has to be computed before the next one can be sampled."""
        return len(self.tokens) - self.computed

    @property
    def output_tokens(self) -> int:
        """How many output tokens exist."""
        return len(self.tokens) - self.work.prompt_tokens

    @property
    def full_blocks(self) -> int:
        """How many leading blocks are computed to their end."""
        return self.computed // self.block_tokens

    @property
    def matchable_blocks(self) -> int:
        """Leading blocks that need no computing if they are found. The last token is never matched, since
        something must be computed to sample from; a request that wants `prompt_logprobs` needs every
        position's logits and matches nothing."""
        if self.work.sampling.prompt_logprobs is not None:
            return 0
        return (len(self.tokens) - 1) // self.block_tokens

    @property
    def missing_blocks(self) -> int:
        """Blocks that the tokens need beyond those in the table."""
        return blocks_for(len(self.tokens), self.block_tokens) - len(self.block_table)

    def block_hash(self, index: int) -> BlockHash:
        """Hash of full block ``index``; computed once, when first asked for. Raises `Bug` for a block that
        the tokens do not fill."""
        if (index + 1) * self.block_tokens > len(self.tokens):
            raise Bug(f"{self.request_id}: block {index} is not full and has no hash")
        while len(self.hashes) <= index:
            parent = self.hashes[-1] if self.hashes else self.work.cache_root
            start = len(self.hashes) * self.block_tokens
            tokens = self.tokens[start : start + self.block_tokens]
            self.hashes.extend(extend_hashes(parent, tokens, self.block_tokens))
        return self.hashes[index]

    def block_name(self, index: int) -> BlockHash:
        """Hash of full block ``index``; of the root for -1."""
        return self.work.cache_root if index < 0 else self.block_hash(index)

    @property
    def steps_left(self) -> int:
        """Decode steps before the one that reaches the limit of the output."""
        return self.work.sampling.max_tokens - self.output_tokens - 1

    def append(self, token_id: TokenId) -> FinishReason | None:
        """Add a sampled token; says whether it is the last one. (`min_tokens` is the sampler's rule.)"""
        self.tokens.append(token_id)
        self.phase = Phase.DECODE
        if token_id in self.work.sampling.stop_token_ids:
            return FinishReason.STOP
        if self.output_tokens >= self.work.sampling.max_tokens:
            return FinishReason.LENGTH
        return None

    def piece(self, count: int) -> Slice:
        """The next ``count`` tokens to compute, as the engine is told."""
        stop = self.computed + count
        return Slice(
            request_id=self.request_id,
            token_ids=tuple(self.tokens[self.computed : stop]),
            start=self.computed,
            block_table=tuple(self.block_table),
            sample=stop == len(self.tokens),
        )

    def introduction(self) -> NewSequence:
        """What the engine has to know of it."""
        return NewSequence(
            request_id=self.request_id,
            token_ids=self.work.token_ids,
            more_token_ids=tuple(self.tokens[len(self.work.token_ids) :]),
            prompt_tokens=self.work.prompt_tokens,
            sampling=self.work.sampling,
        )
