"""Which token comes next.

Knows: greedy choice, temperature, min-p, top-k, top-p, inverse-CDF sampling. Does not know: the model,
logprobs.

A row's choice depends on its logits, its seed and its output index alone, never on the batch or on the number
of threads: exponentials are elementwise, and every sum is a running sum in a fixed order, in float64.

Filters, in this order: min-p keeps tokens at least ``min_p`` times as likely as the likeliest; top-k keeps
the k likeliest; top-p keeps the likeliest whose probabilities first reach ``top_p`` of what the others left.
Tokens that tie with the last one kept are kept as well.

Shapes: R sampled rows, V vocabulary, C likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diptych.domain.ids import TokenId
from diptych.engine.adjust import adjust, needs_adjusting
from diptych.engine.inputs import SampleRow
from diptych.engine.rng import uniform

GREEDY_TEMPERATURE = 1e-5
"""At or below this, dividing by the temperature would overflow; the likeliest token is all that is left."""

FIRST_CANDIDATES = 1024
"""Sorting the vocabulary is dear; this many likeliest tokens nearly always hold top-p's share."""


def takes_likeliest(row: SampleRow) -> bool:
    """Whether the row's choice is the likeliest of its raw scores."""
    sampling = row.state.sampling
    greedy = sampling.temperature <= GREEDY_TEMPERATURE
    return greedy and not needs_adjusting(sampling, row.output_index)


def sample(logits_RV: Tensor, rows: Sequence[SampleRow]) -> list[TokenId]:
    """The next token of each row. ``logits_RV[i]`` are the raw scores of ``rows[i]`` in float32 and stay
    as they are."""
    logits_RV = _adjusted(logits_RV, rows)
    chosen = logits_RV.argmax(-1).tolist()
    drawn = [i for i, row in enumerate(rows) if row.state.sampling.temperature > GREEDY_TEMPERATURE]
    if drawn:
        picked = [rows[i] for i in drawn]
        subset_RV = logits_RV if len(drawn) == len(rows) else logits_RV[drawn]
        for i, token_id in zip(drawn, _draw(_weights(subset_RV, picked), picked), strict=True):
            chosen[i] = token_id
    return chosen


def _adjusted(logits_RV: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    changed = [i for i, row in enumerate(rows) if needs_adjusting(row.state.sampling, row.output_index)]
    if changed:
        logits_RV = logits_RV.clone()
    for i in changed:
        adjust(logits_RV[i], rows[i].state, rows[i].output_index)
    return logits_RV


def _weights(logits_RV: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """Probabilities up to a factor (the likeliest token has 1), zero where a filter dropped the token."""
    temperature_R1 = _column([row.state.sampling.temperature for row in rows], logits_RV)
    shifted_RV = logits_RV - logits_RV.amax(-1, keepdim=True)
    weights_RV = shifted_RV.div_(temperature_R1).exp_()
    min_p_R1 = _column([row.state.sampling.min_p for row in rows], logits_RV)
    weights_RV = weights_RV.masked_fill_(weights_RV < min_p_R1, 0.0)
    for i, row in enumerate(rows):
        sampling = row.state.sampling
        if 0 < sampling.top_k < logits_RV.shape[1] or sampling.top_p < 1.0:
            weights_V = weights_RV[i]
            weights_V.masked_fill_(weights_V < _floor(weights_V, sampling.top_k, sampling.top_p), 0.0)
    return weights_RV


def _floor(weights_V: Tensor, top_k: int, top_p: float) -> Tensor:
    """The smallest weight that top-k and top-p keep."""
    if 0 < top_k < weights_V.shape[0]:
        likeliest_C = weights_V.topk(top_k).values
        return _top_p_floor(likeliest_C, likeliest_C.double().cumsum(0)[-1], top_p)
    total = weights_V.double().cumsum(0)[-1]
    likeliest_C = weights_V.topk(min(FIRST_CANDIDATES, weights_V.shape[0])).values
    if likeliest_C.double().cumsum(0)[-1] < top_p * total:
        likeliest_C = weights_V.sort(descending=True).values
    return _top_p_floor(likeliest_C, total, top_p)


def _top_p_floor(likeliest_C: Tensor, total: Tensor, top_p: float) -> Tensor:
    """The weight at which the running sum of ``likeliest`` (descending) first reaches ``top_p * total``."""
    reached = torch.searchsorted(likeliest_C.double().cumsum(0), top_p * total)
    return likeliest_C[reached.clamp(max=likeliest_C.shape[0] - 1)]


def _draw(weights_RV: Tensor, rows: Sequence[SampleRow]) -> list[TokenId]:
    """Inverse CDF over token ids: the first whose running sum exceeds u times the total."""
    sums_RV = weights_RV.double().cumsum(-1)
    total_R1 = sums_RV[:, -1:].clone()
    u_R1 = _column([uniform(row.state.sampling.seed, row.output_index) for row in rows], sums_RV)
    # u < 1, but u * total may round up to total, which no running sum exceeds.
    target_R1 = torch.minimum(u_R1 * total_R1, torch.nextafter(total_R1, torch.zeros_like(total_R1)))
    return torch.searchsorted(sums_RV, target_R1, right=True).squeeze(1).tolist()


def _column(values: list[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype).to(like.device).unsqueeze(1)
