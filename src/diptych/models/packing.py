"""In which numbers each linear map of a decoder is held.

Knows: which maps are rounded how far. Does not know: families, formats in memory.
"""

from __future__ import annotations

from torch import Tensor

from diptych.domain.cluster import WeightFormat
from diptych.kernels.quantised import rounded
from diptych.kernels.seam import Kernels, PackedLinear


class Packing:
    """Rounds and packs one weight after the other. Norms, biases and embeddings are not its business."""

    def __init__(self, kernels: Kernels, weights: WeightFormat) -> None:
        self._kernels = kernels
        self._weights: WeightFormat = weights

    def linear(self, weight_ND: Tensor, bias_N: Tensor | None = None) -> PackedLinear:
        """A map inside a layer."""
        return self._kernels.pack(rounded(weight_ND, self._weights), bias_N)

    def head(self, weight_VD: Tensor) -> PackedLinear:
        """The map to scores. Never less than eight bits: its error goes straight into the scores, and four
        bits there cost a third more divergence (docs/quantisation.md)."""
        weights: WeightFormat = "same" if self._weights == "same" else "int8"
        return self._kernels.pack(rounded(weight_VD, weights))

    def router(self, weight_XD: Tensor) -> PackedLinear:
        """The map to scores of experts, which is small and on which much depends: as it is."""
        return self._kernels.pack(weight_XD)
