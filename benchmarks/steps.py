"""Plans of single steps, to time an engine without a cluster.

Knows: step plans whose content does not matter for time. Does not know: engines, clocks.
"""

from __future__ import annotations

from collections.abc import Sequence

from diptych.domain.ids import RequestId
from diptych.domain.kv import blocks_for
from diptych.domain.request import SamplingParams
from diptych.domain.step import NewSequence, Slice, StepPlan

BLOCK_TOKENS = 16
SAMPLING = SamplingParams(max_tokens=4096, seed=0, temperature=0.0)


def decode_step(batch: int, context: int) -> StepPlan:
    """One token for each of ``batch`` sequences; what stands in the KV memory does not matter for time."""
    blocks = blocks_for(context, BLOCK_TOKENS)
    return _plan(
        [_slice(index, context - 1, 1, range(index * blocks, (index + 1) * blocks)) for index in range(batch)]
    )


def prefill_step(tokens: int) -> StepPlan:
    """A whole prompt."""
    return _plan([_slice(0, 0, tokens, range(blocks_for(tokens, BLOCK_TOKENS)))])


def _slice(index: int, start: int, count: int, blocks: Sequence[int]) -> Slice:
    return Slice(
        request_id=RequestId(f"r{index}"),
        token_ids=tuple((7 * position + index) % 1000 for position in range(start, start + count)),
        start=start,
        block_table=tuple(blocks),
        sample=True,
    )


def _plan(slices: list[Slice]) -> StepPlan:
    """Sequences are new and ended in the same step, so that steps do not depend on each other."""
    names = tuple(piece.request_id for piece in slices)
    new = tuple(
        NewSequence(
            request_id=piece.request_id,
            token_ids=(0,) * piece.start + tuple(piece.token_ids),
            prompt_tokens=piece.start + len(piece.token_ids),
            sampling=SAMPLING,
        )
        for piece in slices
    )
    return StepPlan(step=0, slices=tuple(slices), new=new, ended=names)
