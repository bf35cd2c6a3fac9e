"""What follows attention in a layer: one gated MLP, or a mixture of experts.

Knows: which layers have which, and under what names. Does not know: how either is computed.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from diptych.models.family import ExpertNames, Family, FeedForward, GatedNames, TensorShapes
from diptych.models.mixture import build_mixture, mixture_tensors
from diptych.models.mlp import build_gated, gated_tensors
from diptych.models.packing import Packing
from diptych.performance.model_shape import ModelShape

DENSE = "mlp."
"""The block of a layer with one MLP, in every family."""


def feed_forward_tensors(shape: ModelShape, layer: int, experts: ExpertNames) -> TensorShapes:
    """Names within the layer, and shapes."""
    mixture = shape.mixture_of(layer)
    if mixture is None:
        return gated_tensors(DENSE, GatedNames(), shape.hidden, shape.intermediate)
    return mixture_tensors(experts, shape.hidden, mixture)


def build_feed_forward(
    shape: ModelShape, layer: int, family: Family, packing: Packing, tensors: Mapping[str, Tensor]
) -> FeedForward:
    """Pack what `feed_forward_tensors` names."""
    mixture = shape.mixture_of(layer)
    if mixture is None:
        return build_gated(packing, tensors, DENSE, GatedNames(), family.activation)
    return build_mixture(packing, tensors, family.experts, mixture, family.activation)
