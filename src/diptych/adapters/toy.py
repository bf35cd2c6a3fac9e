"""A deterministic engine without a model: to try the API, and for tests of real processes without torch.

The next token is a hash of what stands in the KV memory. Every position stores (token id, position), in K
and again in V, and each step reads all of it back before it trusts it: a block that was lent, copied or freed
wrongly raises `Bug` instead of going unnoticed. Delays make a phase as long as a test needs it.

Knows: the KV segment and its layout. Does not know: roles, network, text. It ignores the sampling parameters
but for ``temperature``, ``seed``, ``logprobs``, ``prompt_logprobs`` and ``min_tokens`` (there are no logits).
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable
from hashlib import blake2b

import msgspec

from diptych.domain.errors import Bug, SpecError
from diptych.domain.ids import BlockId, RequestId, TokenId
from diptych.domain.kv import KVLayout
from diptych.domain.request import Logprob, Sampled, SamplingParams
from diptych.domain.step import NewSequence, Slice, StepPlan, StepResult

_CELL_BYTES = 8
"""One position of one plane: two float32."""


class ToyEngine(msgspec.Struct, frozen=True, tag="toy", kw_only=True):
    """What to build. Delays in seconds; ``poison_token_id`` makes the step that runs it fail."""

    vocab_size: int = 256
    prefill_s_per_token: float = 0.0
    decode_s_per_step: float = 0.0
    poison_token_id: TokenId | None = None
    startup_error: str | None = None
    """Refuse to start, with this message: shows what a wrong model directory looks like."""


def toy_layout(block_tokens: int) -> KVLayout:
    """One layer, one head, two numbers for each position: token id and position (exact below 2**24)."""
    return KVLayout(layers=1, kv_heads=1, head_dim=2, block_tokens=block_tokens, dtype="float32")


def toy_next_token(
    token_ids: tuple[TokenId, ...], sampling: SamplingParams, prompt_tokens: int, vocab_size: int
) -> TokenId:
    """The token after ``token_ids``: what the engine must answer, computed without KV."""
    cells = b"".join(_cell(token_id, position) for position, token_id in enumerate(token_ids))
    return _draw(cells, sampling, len(token_ids) - prompt_tokens, vocab_size)


def _cell(token_id: TokenId, position: int) -> bytes:
    """Positions count from 1 here: memory that was never written holds zeros and is no cell."""
    return struct.pack("<ff", token_id, position + 1)


def _draw(cells: bytes, sampling: SamplingParams, output_index: int, vocab_size: int) -> TokenId:
    """Greedy depends on the history alone; otherwise seed and output index take part (and nothing else)."""
    digest = blake2b(cells, digest_size=8)
    if sampling.temperature > 0:
        digest.update(struct.pack("<Qq", sampling.seed % 2**64, output_index))
    value = int.from_bytes(digest.digest(), "little")
    token_id = value % vocab_size
    if output_index >= sampling.min_tokens:
        return token_id
    allowed = (other % vocab_size for other in range(token_id, token_id + vocab_size))
    return next((other for other in allowed if other not in sampling.stop_token_ids), token_id)


class _Planes:
    """The two planes (K, V) of the segment, addressed by block."""

    def __init__(self, layout: KVLayout, buffer: memoryview, blocks: int) -> None:
        self._block_bytes = layout.plane_block_bytes
        self._block_tokens = layout.block_tokens
        size = blocks * self._block_bytes
        starts = [layout.plane_offset_bytes(0, value, blocks) for value in (False, True)]
        self._planes = [buffer[start : start + size] for start in starts]

    def write(self, block_id: BlockId, slot: int, cell: bytes) -> None:
        at = block_id * self._block_bytes + slot * _CELL_BYTES
        for plane in self._planes:
            plane[at : at + _CELL_BYTES] = cell

    def copy(self, source: BlockId, target: BlockId) -> int:
        """Copy one whole block; bytes copied."""
        size = self._block_bytes
        for plane in self._planes:
            plane[target * size : (target + 1) * size] = plane[source * size : (source + 1) * size]
        return 2 * size

    def read(self, table: tuple[BlockId, ...], tokens: int) -> bytes:
        """Cells of positions ``[0, tokens)``. Raises `Bug` where a position is not what it must be."""
        keys, values = (self._gather(plane, table, tokens) for plane in self._planes)
        positions = [position for _, position in struct.iter_unpack("<ff", keys)]
        if keys != values or positions != list(range(1, tokens + 1)):
            wrong = next((i for i, p in enumerate(positions) if p != i + 1), None)
            raise Bug(f"KV of blocks {table} does not hold positions 0..{tokens - 1} (first wrong: {wrong})")
        return keys

    def _gather(self, plane: memoryview, table: tuple[BlockId, ...], tokens: int) -> bytes:
        size = self._block_bytes
        needed = table[: -(-tokens // self._block_tokens)]
        whole = b"".join(plane[block * size : (block + 1) * size] for block in needed)
        return whole[: tokens * _CELL_BYTES]


class ToyAdapter:
    """An `EngineAdapter` over `_Planes`."""

    def __init__(
        self,
        spec: ToyEngine,
        layout: KVLayout,
        buffer: memoryview,
        blocks: int,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if spec.startup_error is not None:
            raise SpecError(spec.startup_error)
        self._spec = spec
        self._layout = layout
        self._planes = _Planes(layout, buffer, blocks)
        self._sequences: dict[RequestId, NewSequence] = {}
        self._sleep = sleep

    @property
    def layout(self) -> KVLayout:
        """Shape of the KV memory."""
        return self._layout

    def warm_up(self) -> None:
        """Nothing to warm."""

    def execute(self, plan: StepPlan) -> StepResult:
        """Run one step. Raises `Bug` when the KV memory contradicts the plan."""
        copied_bytes = sum(self._planes.copy(source, target) for source, target in plan.copies)
        self._learn(plan)
        self._delay(plan)
        sampled: dict[RequestId, Sampled] = {}
        prompt_logprobs: dict[RequestId, tuple[Logprob, ...]] = {}
        for piece in plan.slices:
            cells = self._run(piece)
            sequence = self._sequences[piece.request_id]
            if piece.sample:
                sampled[piece.request_id] = self._sample(sequence, piece, cells)
            if sequence.sampling.prompt_logprobs is not None:
                prompt_logprobs[piece.request_id] = self._prompt_logprobs(sequence, piece)
        return StepResult(sampled=sampled, prompt_logprobs=prompt_logprobs, copied_bytes=copied_bytes)

    def _learn(self, plan: StepPlan) -> None:
        for request_id in plan.ended:
            self._sequences.pop(request_id, None)
        for sequence in plan.new:
            self._sequences[sequence.request_id] = sequence

    def _delay(self, plan: StepPlan) -> None:
        prompt_tokens = sum(len(piece.token_ids) for piece in plan.slices if len(piece.token_ids) > 1)
        delay_s = prompt_tokens * self._spec.prefill_s_per_token
        if any(len(piece.token_ids) == 1 for piece in plan.slices):
            delay_s += self._spec.decode_s_per_step
        if delay_s > 0:
            self._sleep(delay_s)

    def _run(self, piece: Slice) -> bytes:
        """Write the slice's cells, then read the whole history back."""
        block_tokens = self._layout.block_tokens
        for position, token_id in enumerate(piece.token_ids, piece.start):
            if token_id == self._spec.poison_token_id:
                raise Bug(f"token {token_id} is the poison of this toy engine")
            block_id = piece.block_table[position // block_tokens]
            self._planes.write(block_id, position % block_tokens, _cell(token_id, position))
        return self._planes.read(piece.block_table, piece.start + len(piece.token_ids))

    def _sample(self, sequence: NewSequence, piece: Slice, cells: bytes) -> Sampled:
        output_index = piece.start + len(piece.token_ids) - sequence.prompt_tokens
        token_id = _draw(cells, sequence.sampling, output_index, self._spec.vocab_size)
        wanted = sequence.sampling.logprobs
        return Sampled(token_id, None if wanted is None else self._logprob(token_id, wanted))

    def _prompt_logprobs(self, sequence: NewSequence, piece: Slice) -> tuple[Logprob, ...]:
        first, last = piece.start + 1, min(piece.start + len(piece.token_ids) + 1, sequence.prompt_tokens)
        wanted = sequence.sampling.prompt_logprobs or 0
        return tuple(self._logprob(token_id, wanted) for token_id in sequence.token_ids[first:last])

    def _logprob(self, token_id: TokenId, top: int) -> Logprob:
        """A hash is as good as uniform: every token has the same log-probability."""
        uniform = -math.log(self._spec.vocab_size)
        others = ((token_id + i) % self._spec.vocab_size for i in range(top))
        return Logprob(token_id, uniform, tuple((other, uniform) for other in others))
