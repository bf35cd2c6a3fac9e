"""What a model family has to say for itself.

Knows: the places where families differ. Does not know: any family.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from diptych.kernels.seam import HeadNorms, Kernels, PackedLinear
from diptych.performance.model_shape import ModelShape

TensorShapes = dict[str, tuple[int, ...]]
"""Tensor name → expected shape."""


class FeedForward(Protocol):
    """What a layer does to each token by itself."""

    def forward(self, x_TD: Tensor, kernels: Kernels) -> Tensor:
        """What is added to the residual stream, [T, D]."""
        ...


@dataclass(frozen=True)
class Layer:
    """Weights of one decoder layer, merged and packed."""

    input_norm_D: Tensor
    qkv: PackedLinear
    """Query, key and value projections in one: rows of q, then k, then v."""
    head_norms: HeadNorms | None
    attention_out: PackedLinear
    mlp_norm_D: Tensor
    mlp: FeedForward


class GatedNames(NamedTuple):
    """What checkpoints call the three maps of a gated MLP."""

    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"


class ExpertNames(NamedTuple):
    """What checkpoints call the experts of a layer: ``<block>gate`` and ``<block>experts.<n>.<map>``."""

    block: str = "mlp."
    maps: GatedNames = GatedNames()


USUAL_EXPERTS = ExpertNames()


@dataclass(frozen=True)
class Family:
    """One architecture of the registry."""

    architecture: str
    layer_tensors: Callable[[ModelShape, int], TensorShapes]
    """Names and shapes of the tensors of one layer."""
    experts: ExpertNames = USUAL_EXPERTS
    """Used where a layer has experts."""
