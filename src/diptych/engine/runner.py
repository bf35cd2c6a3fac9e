"""The forward pass of one step, up to the logits of the rows that need them.

Knows: a decoder and its KV memory. Does not know: what is done with logits.

Shapes: T packed tokens, D model width, R rows with logits, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from diptych.domain.errors import SpecError
from diptych.domain.ids import TokenId
from diptych.engine.inputs import StepInputs
from diptych.engine.kv_memory import KVMemory
from diptych.models.decoder import Decoder


class Scores(NamedTuple):
    """Raw scores in the dtype of the model, [R, V], and the first of the highest of each row."""

    logits_RV: Tensor
    likeliest_R: list[TokenId]


class Runner:
    """One model over one KV memory."""

    def __init__(self, decoder: Decoder, memory: KVMemory) -> None:
        self._decoder = decoder
        self._memory = memory

    def scores(self, inputs: StepInputs) -> Scores:
        """Those of the wanted rows; the KV of all tokens of the step is stored.

        Raises:
            SpecError: the model yields numbers that are not finite.
        """
        hidden_RD = self._decoder.forward(inputs.decoder, self._memory.layers)
        if not hidden_RD.shape[0]:
            return Scores(hidden_RD.new_empty((0, self._decoder.shape.vocab)), [])
        return self.judged(self._decoder.logits(hidden_RD))

    def judged(self, logits_RV: Tensor) -> Scores:
        """The likeliest of each row. Raises `SpecError` as `scores` does."""
        likeliest_R, finite_R = self._decoder.likeliest(logits_RV)
        _require_finite(finite_R)
        return Scores(logits_RV, likeliest_R)


def _require_finite(finite_R: list[bool]) -> None:
    if not all(finite_R):
        raise SpecError(
            f"the model produced logits that are not finite in {finite_R.count(False)} of "
            f"{len(finite_R)} rows: the weights are damaged, or the dtype is too narrow for them"
        )
