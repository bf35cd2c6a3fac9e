"""Which token comes next.

Knows: greedy choice, which rows need their scores adjusted, seeds. Does not know: the model, how a token is
drawn (`Kernels.draw`), logprobs.

A row's choice depends on its logits, its seed and its output index alone, never on the batch.

Shapes: R sampled rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diptych.domain.ids import TokenId
from diptych.engine.adjust import adjust, needs_adjusting
from diptych.engine.inputs import SampleRow
from diptych.engine.rng import uniform
from diptych.kernels.seam import DrawRule

GREEDY_TEMPERATURE = 1e-5
"""At or below this, dividing by the temperature would overflow; the likeliest token is all that is left."""

Draw = Callable[[Tensor, Sequence[DrawRule]], list[int]]
"""`Kernels.draw`."""


def takes_likeliest(row: SampleRow) -> bool:
    """Whether the row's choice is the likeliest of its raw scores."""
    return _greedy(row) and not needs_adjusting(row.state.sampling, row.output_index)


def sample(logits_RV: Tensor, rows: Sequence[SampleRow], draw: Draw) -> list[TokenId]:
    """The next token of each row. ``logits_RV[i]`` are the raw scores of ``rows[i]`` and stay as they are.

    Scores that need adjusting become float32 first; the others are drawn from as they are.
    """
    changed = [i for i, row in enumerate(rows) if needs_adjusting(row.state.sampling, row.output_index)]
    others = sorted(set(range(len(rows))).difference(changed))
    chosen = dict(
        zip(others, _choose(_pick(logits_RV, others), [rows[i] for i in others], draw), strict=True)
    )
    if changed:
        adjusted_RV = _adjusted(logits_RV[changed].float(), [rows[i] for i in changed])
        chosen |= zip(changed, _choose(adjusted_RV, [rows[i] for i in changed], draw), strict=True)
    return [chosen[i] for i in range(len(rows))]


def _adjusted(logits_RV: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    for logits_V, row in zip(logits_RV, rows, strict=True):
        adjust(logits_V, row.state, row.output_index)
    return logits_RV


def _choose(logits_RV: Tensor, rows: Sequence[SampleRow], draw: Draw) -> list[TokenId]:
    drawn = [i for i, row in enumerate(rows) if not _greedy(row)]
    greedy = sorted(set(range(len(rows))).difference(drawn))
    chosen = dict(zip(greedy, _pick(logits_RV, greedy).argmax(-1).tolist() if greedy else [], strict=True))
    if drawn:
        rules = [_rule(rows[i]) for i in drawn]
        chosen |= zip(drawn, draw(_pick(logits_RV, drawn), rules), strict=True)
    return [chosen[i] for i in range(len(rows))]


def _pick(logits_RV: Tensor, rows: Sequence[int]) -> Tensor:
    """These rows; no copy if they are all."""
    return logits_RV if len(rows) == logits_RV.shape[0] else logits_RV[torch.tensor(rows, dtype=torch.int64)]


def _greedy(row: SampleRow) -> bool:
    return row.state.sampling.temperature <= GREEDY_TEMPERATURE


def _rule(row: SampleRow) -> DrawRule:
    sampling = row.state.sampling
    return DrawRule(
        temperature=sampling.temperature,
        min_p=sampling.min_p,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        u=uniform(sampling.seed, row.output_index),
    )
