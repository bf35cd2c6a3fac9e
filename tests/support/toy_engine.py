"""An engine without a model: it checks the bookkeeping of everybody else.

The KV memory holds, for each slot, the token that was computed there and its position. The next token is a
hash of all tokens *as read through the block table*, so a wrong block, a block reused too early or a copy
that was forgotten either fails an assertion or changes the output.

Knows: step plans, KV layout. Does not know: torch, scheduling, processes (its memory may be any buffer,
also one shared between processes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from diptych.domain.ids import BlockId, RequestId, TokenId
from diptych.domain.kv import KVLayout
from diptych.domain.request import Logprob, Sampled, SamplingParams
from diptych.domain.step import NewSequence, Slice, StepPlan, StepResult
from diptych.domain.worker import Arena


def toy_layout(block_tokens: int) -> KVLayout:
    """Eight bytes for a token: K holds the token id plus one (0: never written), V its position."""
    return KVLayout(layers=1, kv_heads=1, head_dim=1, block_tokens=block_tokens, dtype="float32")


class ToyMemory:
    """The KV memory of one memory domain. ``buffer``: where it lies (default: a fresh one), at least
    ``toy_layout(block_tokens).segment_bytes(blocks)`` bytes."""

    def __init__(self, blocks: int, block_tokens: int, buffer: bytearray | memoryview | None = None) -> None:
        self.layout = toy_layout(block_tokens)
        size = self.layout.segment_bytes(blocks)
        view = memoryview(bytearray(size) if buffer is None else buffer)[:size].cast("B").cast("i")
        self._block_tokens = block_tokens
        self._tokens, self._positions = view[: len(view) // 2], view[len(view) // 2 :]

    def write(self, block_table: Sequence[BlockId], position: int, token_id: TokenId) -> None:
        """Note the token at its position."""
        slot = self._slot(block_table, position)
        self._tokens[slot] = token_id + 1
        self._positions[slot] = position

    def read(self, block_table: Sequence[BlockId], position: int) -> TokenId:
        """The token at the position. Fails if the slot was never written or holds another position."""
        slot = self._slot(block_table, position)
        where = f"position {position} in block {block_table[position // self._block_tokens]}"
        assert self._tokens[slot], f"{where} was never written"
        assert self._positions[slot] == position, f"{where} holds position {self._positions[slot]}"
        return self._tokens[slot] - 1

    def copy(self, source: BlockId, target: BlockId, other: ToyMemory | None = None) -> None:
        """Copy a whole block, of this memory or of another one."""
        size, theirs = self._block_tokens, other or self
        for plane, there in ((self._tokens, theirs._tokens), (self._positions, theirs._positions)):
            plane[target * size : (target + 1) * size] = there[source * size : (source + 1) * size]

    def _slot(self, block_table: Sequence[BlockId], position: int) -> int:
        return (
            block_table[position // self._block_tokens] * self._block_tokens + position % self._block_tokens
        )


@dataclass(frozen=True)
class ToyModel:
    """What stands in for a network and a sampler: a hash."""

    vocabulary: int = 97
    stop_probability: float = 0.0
    """How likely each token is the first of `stop_token_ids` (once `min_tokens` exist)."""

    def next_token(self, tokens: Sequence[TokenId], output_tokens: int, sampling: SamplingParams) -> TokenId:
        """A function of all tokens, the seed and the output index; nothing else."""
        digest = self._digest(tokens, sampling.seed, output_tokens)
        may_stop = bool(sampling.stop_token_ids) and output_tokens >= sampling.min_tokens
        if may_stop and int.from_bytes(digest[:4], "little") < self.stop_probability * 2**32:
            return sampling.stop_token_ids[0]
        token_id = int.from_bytes(digest[4:], "little") % self.vocabulary
        while token_id in sampling.stop_token_ids and not may_stop:
            token_id = (token_id + 1) % self.vocabulary
        return token_id

    def logprob(self, prefix: Sequence[TokenId], token_id: TokenId) -> Logprob:
        """A made-up log-probability of ``token_id`` after ``prefix``."""
        digest = self._digest(prefix, token_id, 0)
        return Logprob(token_id, -int.from_bytes(digest[:2], "little") / 2**14)

    def _digest(self, tokens: Sequence[TokenId], seed: int, index: int) -> bytes:
        text = ",".join(map(str, tokens)) + f"|{seed}|{index}"
        return blake2b(text.encode(), digest_size=8).digest()


def reference_output(
    prompt: Sequence[TokenId], sampling: SamplingParams, model: ToyModel | None = None
) -> list[TokenId]:
    """The output that any cluster of toy engines must give: tokens up to max_tokens, or up to and with the
    first stop token."""
    model = model or ToyModel()
    output: list[TokenId] = []
    while len(output) < sampling.max_tokens:
        output.append(model.next_token([*prompt, *output], len(output), sampling))
        if output[-1] in sampling.stop_token_ids:
            break
    return output


def reference_prompt_logprobs(prompt: Sequence[TokenId], model: ToyModel | None = None) -> list[Logprob]:
    """Entries of positions 1 and up."""
    model = model or ToyModel()
    return [model.logprob(prompt[:position], prompt[position]) for position in range(1, len(prompt))]


@dataclass
class _Known:
    """What the engine remembers of a sequence."""

    tokens: list[TokenId]
    prompt_tokens: int
    sampling: SamplingParams


@dataclass
class ToyEngine:
    """An `EngineAdapter`. With ``arena`` it also makes sure that nobody else's block is written."""

    memory: ToyMemory
    model: ToyModel = field(default_factory=ToyModel)
    arena: Arena | None = None
    steps: int = 0
    _known: dict[RequestId, _Known] = field(default_factory=dict)

    @property
    def layout(self) -> KVLayout:
        """Shape of the KV memory."""
        return self.memory.layout

    @property
    def known(self) -> frozenset[RequestId]:
        """Requests that it has been told of and not told to forget."""
        return frozenset(self._known)

    def warm_up(self) -> None:
        """Nothing to warm."""

    def execute(self, plan: StepPlan) -> StepResult:
        """Run one step, trusting nothing."""
        self.steps += 1
        for source, target in plan.copies:
            self._assert_mine(target)
            self.memory.copy(source, target)
        for request_id in plan.ended:
            assert request_id in self._known, f"{request_id} ended but was never new"
            del self._known[request_id]
        for new in plan.new:
            self._learn(new)
        sampled: dict[RequestId, Sampled] = {}
        prompt_logprobs: dict[RequestId, tuple[Logprob, ...]] = {}
        assert len({piece.request_id for piece in plan.slices}) == len(plan.slices), "one slice for each"
        for piece in plan.slices:
            self._write(piece)
        for piece in plan.slices:
            known = self._known[piece.request_id]
            tokens = self._read(piece, known)
            if known.sampling.prompt_logprobs is not None:
                prompt_logprobs[piece.request_id] = self._prompt_logprobs(piece, tokens, known)
            if piece.sample:
                sampled[piece.request_id] = self._sample(tokens, known)
        return StepResult(
            sampled=sampled,
            prompt_logprobs=prompt_logprobs,
            copied_bytes=len(plan.copies) * self.layout.block_bytes,
        )

    def _learn(self, new: NewSequence) -> None:
        assert new.request_id not in self._known, f"{new.request_id} is new twice"
        self._known[new.request_id] = _Known(
            [*new.token_ids, *new.more_token_ids], new.prompt_tokens, new.sampling
        )

    def _write(self, piece: Slice) -> None:
        assert piece.token_ids, f"{piece.request_id} has an empty slice"
        assert piece.request_id in self._known, f"{piece.request_id} runs but was never new"
        for position, token_id in enumerate(piece.token_ids, piece.start):
            self._assert_mine(piece.block_table[position // self.layout.block_tokens])
            self.memory.write(piece.block_table, position, token_id)

    def _read(self, piece: Slice, known: _Known) -> list[TokenId]:
        stop = piece.start + len(piece.token_ids)
        tokens = [self.memory.read(piece.block_table, position) for position in range(stop)]
        assert tokens == known.tokens[:stop], f"{piece.request_id}: the KV memory holds other tokens"
        assert piece.sample == (stop == len(known.tokens)), f"{piece.request_id} samples in the wrong place"
        return tokens

    def _sample(self, tokens: list[TokenId], known: _Known) -> Sampled:
        token_id = self.model.next_token(tokens, len(tokens) - known.prompt_tokens, known.sampling)
        known.tokens.append(token_id)
        wanted = known.sampling.logprobs is not None
        return Sampled(token_id, self.model.logprob(tokens, token_id) if wanted else None)

    def _prompt_logprobs(self, piece: Slice, tokens: list[TokenId], known: _Known) -> tuple[Logprob, ...]:
        stop = min(piece.start + len(piece.token_ids) + 1, known.prompt_tokens)
        prompt = known.tokens[: known.prompt_tokens]
        return tuple(self.model.logprob(prompt[:at], prompt[at]) for at in range(piece.start + 1, stop))

    def _assert_mine(self, block_id: BlockId) -> None:
        assert self.arena is None or block_id in self.arena, f"block {block_id} is not in {self.arena}"
