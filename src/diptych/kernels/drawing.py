"""A token drawn from each row of scores, with torch.

Knows: temperature, min-p, top-k, top-p, inverse-CDF sampling. Does not know: requests, seeds.

A row's token depends on its scores and its rule alone, never on the batch or on the number of threads:
exponentials are elementwise, and every sum is a running sum in a fixed order, in float64.

Shapes: R rows, V vocabulary, C likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diptych.kernels.seam import DrawRule

FIRST_CANDIDATES = 1024
"""Sorting the vocabulary is dear; this many likeliest tokens nearly always hold top-p's share."""


def draw(logits_RV: Tensor, rules: Sequence[DrawRule]) -> list[int]:
    """See `Kernels.draw`."""
    weights_RV = _weights(logits_RV.float(), rules)
    sums_RV = weights_RV.double().cumsum(-1)
    total_R1 = sums_RV[:, -1:].clone()
    u_R1 = _column([rule.u for rule in rules], sums_RV)
    # u < 1, but u * total may round up to total, which no running sum exceeds.
    target_R1 = torch.minimum(u_R1 * total_R1, torch.nextafter(total_R1, torch.zeros_like(total_R1)))
    return torch.searchsorted(sums_RV, target_R1, right=True).squeeze(1).tolist()


def _weights(logits_RV: Tensor, rules: Sequence[DrawRule]) -> Tensor:
    """Probabilities up to a factor (the likeliest token has 1), zero where a filter dropped the token."""
    temperature_R1 = _column([rule.temperature for rule in rules], logits_RV)
    shifted_RV = logits_RV - logits_RV.amax(-1, keepdim=True)
    weights_RV = shifted_RV.div_(temperature_R1).exp_()
    min_p_R1 = _column([rule.min_p for rule in rules], logits_RV)
    weights_RV = weights_RV.masked_fill_(weights_RV < min_p_R1, 0.0)
    for weights_V, rule in zip(weights_RV, rules, strict=True):
        if 0 < rule.top_k < logits_RV.shape[1] or rule.top_p < 1.0:
            weights_V.masked_fill_(weights_V < _floor(weights_V, rule.top_k, rule.top_p), 0.0)
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


def _column(values: list[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype).to(like.device).unsqueeze(1)
