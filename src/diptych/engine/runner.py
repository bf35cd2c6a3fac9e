"""The forward pass of one step, up to the logits of the rows that need them.

Knows: a decoder and its KV memory. Does not know: what is done with logits.

Shapes: T packed tokens, D model width, R rows with logits, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.domain.errors import SpecError
from diptych.engine.inputs import StepInputs
from diptych.engine.kv_memory import KVMemory
from diptych.models.decoder import Decoder


class Runner:
    """One model over one KV memory."""

    def __init__(self, decoder: Decoder, memory: KVMemory) -> None:
        self._decoder = decoder
        self._memory = memory

    def logits(self, inputs: StepInputs) -> Tensor:
        """Raw scores of ``inputs.logit_rows``, [R, V]; the KV of all tokens of the step is stored.

        Raises:
            SpecError: the model yields numbers that are not finite.
        """
        hidden_TD = self._decoder.forward(inputs.decoder, self._memory.layers)
        if not inputs.logit_rows_R.shape[0]:
            return hidden_TD.new_empty((0, self._decoder.shape.vocab), dtype=torch.float32)
        logits_RV = self._decoder.logits(hidden_TD[inputs.logit_rows_R])
        _require_finite(logits_RV)
        return logits_RV


def _require_finite(logits_RV: Tensor) -> None:
    """A sum is finite only if every term is."""
    finite_R = logits_RV.sum(-1).isfinite()
    if not bool(finite_R.all()):
        raise SpecError(
            f"the model produced logits that are not finite in {int((~finite_R).sum())} of "
            f"{finite_R.shape[0]} rows: the weights are damaged, or the dtype is too narrow for them"
        )
