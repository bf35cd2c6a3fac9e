"""Small steps before the first request: libraries load, code is generated, buffers grow.

Knows: a scratch KV memory. Does not know: the shared one, which may hold live blocks.

Shapes: R rows with logits, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.domain.errors import SpecError
from diptych.domain.ids import RequestId
from diptych.domain.kv import KVLayout, blocks_for
from diptych.domain.request import SamplingParams
from diptych.domain.step import NewSequence, Slice, StepPlan
from diptych.engine.inputs import pack_step
from diptych.engine.kv_memory import KVMemory
from diptych.engine.runner import Runner
from diptych.engine.sequences import Sequences
from diptych.models.decoder import Decoder

PROMPT_TOKENS = 80
"""More than one kv tile, no multiple of anything."""


def warm_up(decoder: Decoder, layout: KVLayout, device: torch.device, *, exact: bool) -> None:
    """Run a prompt whole, then as chunk and single tokens in company; compare bits if ``exact``."""
    tokens = min(PROMPT_TOKENS, decoder.shape.max_positions)
    blocks = blocks_for(tokens, layout.block_tokens)
    runner = Runner(decoder, KVMemory.allocate(layout, 2 * blocks, device))
    prompts = [
        NewSequence(
            request_id=RequestId(f"warm-up-{i}"),
            token_ids=tuple((7 * p + i) % decoder.shape.vocab for p in range(tokens)),
            prompt_tokens=tokens,
            sampling=SamplingParams(max_tokens=1, seed=0),
        )
        for i in range(2)
    ]
    sequences = Sequences()
    sequences.update((), prompts)
    tables = [tuple(range(i * blocks, (i + 1) * blocks)) for i in range(2)]

    def run(*pieces: tuple[int, int, int]) -> Tensor:
        slices = tuple(_slice(prompts[i], start, end, tables[i]) for i, start, end in pieces)
        plan = StepPlan(step=0, slices=slices)
        return runner.scores(pack_step(plan, sequences, layout.block_tokens, device)).logits_RV

    whole_RV = run((0, 0, tokens))
    half = tokens // 2
    run((0, 0, half), (1, 0, tokens - 1))
    for end in range(half + 1, min(half + 3, tokens)):
        run((0, end - 1, end))
    run((0, min(half + 2, tokens - 1), tokens - 1))
    mixed_RV = run((1, tokens - 1, tokens), (0, tokens - 1, tokens))
    if exact and not torch.equal(mixed_RV[1], whole_RV[0]):
        raise SpecError(
            "numerics 'invariant' does not hold with this machine's math libraries; use numerics 'fast'"
        )


def _slice(sequence: NewSequence, start: int, end: int, table: tuple[int, ...]) -> Slice:
    return Slice(
        request_id=sequence.request_id,
        token_ids=sequence.token_ids[start:end],
        start=start,
        block_table=table,
        sample=True,
    )
