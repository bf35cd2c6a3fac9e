"""An engine that is a cost model: steps take the seconds that the model says, tokens mean nothing.

It lets the whole API run at any scale without hardware: `diptych serve --engine modelled`. In virtual time
the same
`StepModel` is asked without sleeping (`diptych.planning`).

Knows: seconds of a step, which slices decode. Does not know: roles, network, KV contents (none exist).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from hashlib import blake2b

import msgspec
from pydantic import ValidationError

from diptych.domain.errors import SpecError
from diptych.domain.fleet import ProfileSpec
from diptych.domain.ids import RequestId, TokenId
from diptych.domain.kv import KVLayout
from diptych.domain.request import Logprob, Sampled
from diptych.domain.step import NewSequence, Slice, StepPlan, StepResult
from diptych.performance.steps import Chunk, FittedSteps, StepModel


class ModelledEngine(msgspec.Struct, frozen=True, tag="modelled", kw_only=True):
    """What to build: ``profile`` is a `ProfileSpec` as JSON."""

    profile: str
    vocab_size: int


def modelled_layout(block_tokens: int) -> KVLayout:
    """The smallest KV that can be counted: nothing reads or writes it."""
    return KVLayout(layers=1, kv_heads=1, head_dim=1, block_tokens=block_tokens, dtype="bfloat16")


def steps_for(spec: ModelledEngine) -> StepModel:
    """The cost model. Raises `SpecError` when the profile is not valid."""
    try:
        return FittedSteps(ProfileSpec.model_validate_json(spec.profile))
    except ValidationError as error:
        raise SpecError(f"the profile of a modelled engine is not valid: {error}") from None


class ModelledAdapter:
    """An `EngineAdapter` that sleeps."""

    def __init__(
        self,
        steps: StepModel,
        layout: KVLayout,
        vocab_size: int,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._steps = steps
        self._layout = layout
        self._vocab_size = vocab_size
        self._sleep = sleep
        self._sequences: dict[RequestId, NewSequence] = {}

    @property
    def layout(self) -> KVLayout:
        """Shape of the KV memory."""
        return self._layout

    def warm_up(self) -> None:
        """Nothing to warm."""

    def execute(self, plan: StepPlan) -> StepResult:
        """Take as long as the step would, and sample tokens that depend on seed and position alone."""
        for request_id in plan.ended:
            self._sequences.pop(request_id, None)
        for sequence in plan.new:
            self._sequences[sequence.request_id] = sequence
        self._sleep(self.step_s(plan))
        return StepResult(
            sampled={piece.request_id: self._sample(piece) for piece in plan.slices if piece.sample},
            prompt_logprobs={
                piece.request_id: entries
                for piece in plan.slices
                if (entries := self._prompt_logprobs(piece))
            },
        )

    def step_s(self, plan: StepPlan) -> float:
        """Seconds of the step."""
        chunks: list[Chunk] = []
        decodes = context = 0
        for piece in plan.slices:
            if piece.sample and len(piece.token_ids) == 1 and piece.start >= self._prompt_tokens(piece):
                decodes += 1
                context += piece.start
            else:
                chunks.append(Chunk(len(piece.token_ids), piece.start))
        return self._steps.step_s(chunks, decodes, context)

    def _prompt_tokens(self, piece: Slice) -> int:
        return self._sequences[piece.request_id].prompt_tokens

    def _sample(self, piece: Slice) -> Sampled:
        sampling = self._sequences[piece.request_id].sampling
        index = piece.start + len(piece.token_ids) - self._prompt_tokens(piece)
        token_id = _draw(sampling.seed, index, self._vocab_size)
        while token_id in sampling.stop_token_ids:
            token_id = (token_id + 1) % self._vocab_size
        return Sampled(
            token_id, None if sampling.logprobs is None else self._logprob(token_id, sampling.logprobs)
        )

    def _prompt_logprobs(self, piece: Slice) -> tuple[Logprob, ...]:
        sequence = self._sequences[piece.request_id]
        wanted = sequence.sampling.prompt_logprobs
        if wanted is None:
            return ()
        stop = min(piece.start + len(piece.token_ids) + 1, sequence.prompt_tokens)
        return tuple(
            self._logprob(token_id, wanted) for token_id in sequence.token_ids[piece.start + 1 : stop]
        )

    def _logprob(self, token_id: TokenId, top: int) -> Logprob:
        """No token is likelier than another."""
        uniform = -math.log(self._vocab_size)
        others = ((token_id + i) % self._vocab_size for i in range(top))
        return Logprob(token_id, uniform, tuple((other, uniform) for other in others))


def _draw(seed: int, index: int, vocab_size: int) -> TokenId:
    digest = blake2b(f"{seed}:{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % vocab_size
