"""What a model family has to say for itself.

Knows: the places where families differ. Does not know: any family.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from diptych.kernels.seam import HeadNorms, PackedLinear
from diptych.performance.model_shape import ModelShape

TensorShapes = dict[str, tuple[int, ...]]
"""Tensor name → expected shape."""


@dataclass(frozen=True)
class Layer:
    """Weights of one decoder layer, merged and packed."""

    input_norm_D: Tensor
    qkv: PackedLinear
    """Query, key and value projections in one: rows of q, then k, then v."""
    head_norms: HeadNorms | None
    attention_out: PackedLinear
    mlp_norm_D: Tensor
    gate_up: PackedLinear
    """Gate and up projections in one."""
    down: PackedLinear


@dataclass(frozen=True)
class Family:
    """One architecture of the registry."""

    architecture: str
    layer_tensors: Callable[[ModelShape, int], TensorShapes]
    """Names and shapes of the tensors of one layer."""
