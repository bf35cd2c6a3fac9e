"""Changes to raw logits that depend on what a sequence holds already.

Knows: logit bias, stop-token masking, penalties; one row at a time. Does not know: randomness.

Order and formulas: bias, then minimum length, then penalties. Repetition divides a positive logit by the
penalty and multiplies a negative one, for every token of prompt or output (Keskar et al., CTRL, 2019);
presence and frequency subtract ``presence * [count > 0] + frequency * count`` over output tokens (OpenAI's
API reference).

Shapes: V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.domain.ids import TokenId
from diptych.domain.request import SamplingParams
from diptych.engine.sequences import SequenceState


def needs_adjusting(sampling: SamplingParams, output_index: int) -> bool:
    """Whether `adjust` would change anything."""
    return bool(
        sampling.logit_bias
        or output_index < sampling.min_tokens
        or sampling.repetition_penalty != 1.0
        or sampling.presence_penalty
        or sampling.frequency_penalty
    )


def adjust(logits_V: Tensor, state: SequenceState, output_index: int) -> None:
    """Apply a sequence's bias, minimum length and penalties in place.

    Ids beyond the vocabulary (tokenisers may know more than the model) cannot be sampled and are skipped.
    """
    sampling, vocab = state.sampling, logits_V.shape[0]
    for token_id, bias in sampling.logit_bias:
        if token_id < vocab:
            logits_V[token_id] += bias
    if output_index < sampling.min_tokens:
        logits_V[[token_id for token_id in sampling.stop_token_ids if token_id < vocab]] = float("-inf")
    output_ids = state.token_ids[state.prompt_tokens : state.prompt_tokens + output_index]
    if sampling.repetition_penalty != 1.0:
        _repetition(
            logits_V, state.token_ids[: state.prompt_tokens] + output_ids, sampling.repetition_penalty
        )
    if output_ids and (sampling.presence_penalty or sampling.frequency_penalty):
        _occurrence(logits_V, output_ids, sampling)


def _repetition(logits_V: Tensor, token_ids: list[TokenId], penalty: float) -> None:
    seen = torch.tensor(token_ids, device=logits_V.device).unique()
    values = logits_V[seen]
    logits_V[seen] = torch.where(values > 0, values / penalty, values * penalty)


def _occurrence(logits_V: Tensor, output_ids: list[TokenId], sampling: SamplingParams) -> None:
    seen, counts = torch.tensor(output_ids, device=logits_V.device).unique(return_counts=True)
    logits_V[seen] -= sampling.presence_penalty + sampling.frequency_penalty * counts
