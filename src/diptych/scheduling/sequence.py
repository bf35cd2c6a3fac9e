"""One request on this worker. Knows its tokens, its blocks and how far it has come. Does not know other
sequences, nor where blocks come from."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Tokens
from typing import Final

from diptych.domain.commands import StartDecode, StartPrefill
from diptych.domain.errors import Bug
from diptych.domain.ids import BlockHash, BlockId, LeaseId, RequestId, TokenId, WorkerId
from diptych.domain.kv import blocks_for, next_hash, token_bytes
from diptych.domain.request import FinishReason, Phase, Work

Order = tuple[int, float, RequestId]

# Bound once: a lookup in an enumeration costs several times as much as one of a constant, and these are made
# for every request.
_STOP: Final = FinishReason.STOP
_LENGTH: Final = FinishReason.LENGTH
_DECODE: Final = Phase.DECODE
_PREFILL: Final = Phase.PREFILL

NOTHING_BORROWED: Final[Mapping[int, BlockId]] = {}


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

    While it decodes, ``computed`` and ``output`` may lag behind: `Decodes` says how far, and catches up.
    """

    __slots__ = (
        "attempt",
        "block_table",
        "block_tokens",
        "borrowed",
        "computed",
        "copied_blocks",
        "drop_answers",
        "dropped",
        "due",
        "ends",
        "export_lease",
        "hashes",
        "imported_blocks",
        "limit",
        "order",
        "output",
        "own_blocks",
        "phase",
        "prompt",
        "request_id",
        "reserved_blocks",
        "round",
        "running",
        "settled_blocks",
        "source",
        "stops",
        "table",
        "work",
    )

    def __init__(self, work: Work, block_tokens: int, phase: Phase) -> None:
        self.work = work
        self.block_tokens = block_tokens
        self.phase = phase
        self.request_id = work.request_id
        self.attempt = work.attempt
        self.order: Order = (work.priority, work.arrival_s, work.request_id)
        """Smaller runs sooner and is bounced later: priority, then arrival; the name breaks ties."""
        self.limit = work.prompt_tokens + work.sampling.max_tokens
        """Tokens, prompt and output, at which it ends."""
        self.stops = work.sampling.stop_token_ids
        """Tokens that end it."""
        self.prompt: Tokens[TokenId] = work.token_ids
        """The tokens that the work came with (also output of earlier attempts); never copied: they are
        many."""
        self.output: array[TokenId] = array("I")
        """The tokens after those."""
        self.hashes: list[BlockHash] = list(work.block_hashes)
        self.borrowed: Mapping[int, BlockId] = NOTHING_BORROWED
        """Offered blocks of other arenas by index in the sequence; those that continue the prefix are
        used."""
        self.export_lease: LeaseId | None = None
        self.imported_blocks: tuple[BlockId, ...] = ()
        """Blocks in which the KV of an imported sequence stands; the last one may be partly filled."""
        self.source: WorkerId | None = None
        """Who has those blocks in another memory domain; None: they can be borrowed."""
        self.copied_blocks = 0
        """Blocks whose content was copied or fetched to start here."""
        self.reserved_blocks = 0
        """Blocks promised to this sequence and not drawn yet."""
        self.computed = 0
        """KV of so many leading tokens is in the blocks."""
        self.block_table: list[BlockId] = []
        self.own_blocks: list[BlockId] = []
        self.settled_blocks = 0
        """Leading full blocks that need no publishing any more (or never did: somebody else computed
        them)."""
        self.running = False
        """Whether the engine has heard of it."""
        self.dropped = False
        """Ordered to end while a step computes with it or a transfer fills its blocks: ends after that."""
        self.drop_answers = 0
        """So many orders wait for their `Dropped`."""
        self.round = 0
        """Of the worker's decodes: the one for which ``computed`` holds."""
        self.due = 0
        """The round after which its blocks are full."""
        self.ends = 0
        """The round after which its output is at its limit."""
        self.table: tuple[BlockId, ...] = ()
        """The block table as the engine was told it last."""

    @classmethod
    def to_prefill(cls, command: StartPrefill, block_tokens: int) -> Sequence:
        """A sequence that starts with computing its tokens."""
        if not command.work.token_ids:
            raise Bug(f"request {command.work.request_id} has no tokens")
        sequence = cls(command.work, block_tokens, _PREFILL)
        sequence.borrowed = command.borrowed
        sequence.export_lease = command.export_lease
        return sequence

    @classmethod
    def to_expect(cls, work: Work, block_tokens: int) -> Sequence:
        """A sequence that is to be decoded here once it has been prefilled elsewhere."""
        return cls(work, block_tokens, _DECODE)

    def take_over(self, command: StartDecode) -> None:
        """Its KV stands in blocks of others, for all tokens but the last."""
        self.output.extend(command.new_token_ids)
        self.computed = command.computed_tokens
        self.imported_blocks = command.block_ids
        self.source = command.source
        if self.remaining != 1:
            raise Bug(f"{self.request_id}: KV of {self.computed} tokens for {self.tokens} tokens")
        if len(command.block_ids) != blocks_for(self.computed, self.block_tokens):
            raise Bug(f"{self.request_id}: {len(command.block_ids)} blocks for {self.computed} tokens")

    @property
    def tokens(self) -> int:
        """How many tokens it has."""
        return len(self.prompt) + len(self.output)

    @property
    def remaining(self) -> int:
        """Tokens whose KV has to be computed before the next one can be sampled."""
        return len(self.prompt) + len(self.output) - self.computed

    @property
    def output_tokens(self) -> int:
        """How many output tokens exist."""
        return self.tokens - self.work.prompt_tokens

    @property
    def full_blocks(self) -> int:
        """How many leading blocks are computed to their end."""
        return self.computed // self.block_tokens

    @property
    def capacity(self) -> int:
        """Tokens that the blocks of the table can hold."""
        return len(self.block_table) * self.block_tokens

    @property
    def matchable_blocks(self) -> int:
        """Leading blocks that need no computing if they are found. The last token is never matched, since
        something must be computed to sample from; a request that wants `prompt_logprobs` needs every
        position's logits and matches nothing."""
        if self.work.sampling.prompt_logprobs is not None:
            return 0
        return (self.tokens - 1) // self.block_tokens

    def tokens_in(self, start: int, stop: int) -> Tokens[TokenId]:
        """Tokens ``[start, stop)``; of the prompt alone it is a slice, which a `range` gives for nothing."""
        known = len(self.prompt)
        if stop <= known:
            return self.prompt[start:stop]
        if start >= known:
            return self.output[start - known : stop - known]
        return [*self.prompt[start:], *self.output[: stop - known]]

    def _content(self, start: int, stop: int) -> bytes:
        """The same as they are hashed."""
        known = len(self.prompt)
        if stop <= known:
            return token_bytes(self.prompt[start:stop])
        if start >= known:
            return token_bytes(self.output[start - known : stop - known])
        return token_bytes(self.prompt[start:]) + token_bytes(self.output[: stop - known])

    def block_hash(self, index: int) -> BlockHash:
        """Hash of full block ``index``; computed once, when first asked for. Raises `Bug` for a block that
        the tokens do not fill."""
        if (index + 1) * self.block_tokens > self.tokens:
            raise Bug(f"{self.request_id}: block {index} is not full and has no hash")
        while len(self.hashes) <= index:
            parent = self.hashes[-1] if self.hashes else self.work.cache_root
            start = len(self.hashes) * self.block_tokens
            self.hashes.append(next_hash(parent, self._content(start, start + self.block_tokens)))
        return self.hashes[index]

    def block_hashes(self, start: int, stop: int) -> list[BlockHash]:
        """Hashes of full blocks ``[start, stop)``."""
        if stop > len(self.hashes):
            self.block_hash(stop - 1)
        return self.hashes[start:stop]

    def leading_hashes(self, blocks: int) -> Iterator[BlockHash]:
        """Hashes of the first ``blocks`` full blocks, each computed only when it is reached."""
        for index in range(blocks):
            yield self.hashes[index] if index < len(self.hashes) else self.block_hash(index)

    def block_name(self, index: int) -> BlockHash:
        """Hash of full block ``index``; of the root for -1."""
        return self.work.cache_root if index < 0 else self.block_hash(index)

    def append(self, token_id: TokenId) -> FinishReason | None:
        """Add a sampled token; says whether it is the last one. (`min_tokens` is the sampler's rule.)"""
        self.output.append(token_id)
        self.phase = _DECODE
        if token_id in self.stops:
            return _STOP
        return _LENGTH if self.tokens >= self.limit else None
