"""Log-probabilities of tokens under the raw logits, before any sampling parameter touches them.

Knows: log-softmax and its top entries. Does not know: which rows want them.

As in the sampler, the sum runs in token order in float64, so that a row's figures depend on the row alone.

Shapes: R rows, V vocabulary, C alternatives.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from diptych.domain.ids import TokenId
from diptych.domain.request import Logprob


def logprobs(logits_RV: Tensor, token_ids: Sequence[TokenId], alternatives: int) -> tuple[Logprob, ...]:
    """For each row the log-probability of its token and of the ``alternatives`` likeliest (ties by id)."""
    wide_RV = logits_RV.double()
    top_R1 = wide_RV.amax(-1, keepdim=True)
    log_total_R1 = (wide_RV - top_R1).exp_().cumsum(-1)[:, -1:].log() + top_R1
    normed_RV = wide_RV - log_total_R1
    likeliest = _likeliest(normed_RV, min(alternatives, normed_RV.shape[1]))
    own = [normed_RV[row, token_id].item() for row, token_id in enumerate(token_ids)]
    return tuple(
        Logprob(token_id, logprob, tops)
        for token_id, logprob, tops in zip(token_ids, own, likeliest, strict=True)
    )


def _likeliest(normed_RV: Tensor, count: int) -> list[tuple[tuple[TokenId, float], ...]]:
    if not count:
        return [()] * normed_RV.shape[0]
    values_RC, ids_RC = normed_RV.topk(count)
    rows = zip(ids_RC.tolist(), values_RC.tolist(), strict=True)
    return [tuple(sorted(zip(ids, values, strict=True), key=lambda e: (-e[1], e[0]))) for ids, values in rows]
