"""The gated MLP: a dense layer's, or one expert's.

Knows: its tensors, how it is packed and computed. Does not know: layers, routing.

Shapes: T tokens, D model width, I width of the MLP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from diptych.kernels.seam import Kernels, PackedLinear
from diptych.models.family import Activation, GatedNames, TensorShapes
from diptych.models.packing import Packing
from diptych.models.tensors import merge


@dataclass(frozen=True)
class GatedMlp:
    """Implements `FeedForward`."""

    gate_up: PackedLinear
    """Gate and up projections in one."""
    down: PackedLinear
    activation: Activation

    def forward(self, x_TD: Tensor, kernels: Kernels) -> Tensor:
        """See `FeedForward.forward`."""
        gate_mul = {"silu": kernels.silu_mul, "gelu": kernels.gelu_mul}[self.activation]
        return kernels.linear(gate_mul(kernels.linear(x_TD, self.gate_up)), self.down)


def gated_tensors(prefix: str, names: GatedNames, hidden: int, width: int) -> TensorShapes:
    """Names and shapes of the tensors of one MLP."""
    return {
        f"{prefix}{names.gate}.weight": (width, hidden),
        f"{prefix}{names.up}.weight": (width, hidden),
        f"{prefix}{names.down}.weight": (hidden, width),
    }


def build_gated(
    packing: Packing, tensors: Mapping[str, Tensor], prefix: str, names: GatedNames, activation: Activation
) -> GatedMlp:
    """Merge and pack the tensors that `gated_tensors` names."""
    return GatedMlp(
        gate_up=merge(packing, tensors, [prefix + names.gate, prefix + names.up]),
        down=packing.linear(tensors[f"{prefix}{names.down}.weight"]),
        activation=activation,
    )
