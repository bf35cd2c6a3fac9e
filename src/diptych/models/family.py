"""What a model family has to say for itself.

Knows: the places where families differ. Does not know: any family.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias

from torch import Tensor

from diptych.kernels.seam import HeadNorms, Kernels, PackedLinear
from diptych.performance.model_shape import ModelShape

TensorShapes = dict[str, tuple[int, ...]]
"""Tensor name → expected shape."""

Activation = Literal["silu", "gelu"]
"""Of the gate of an MLP, or of every expert."""


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
    attention_out_norm_D: Tensor | None
    """On what attention adds to the residual; None: added as it is."""
    mlp_norm_D: Tensor
    mlp: FeedForward
    mlp_out_norm_D: Tensor | None
    """As ``attention_out_norm_D``."""


@dataclass(frozen=True)
class NormNames:
    """Which tensor of a layer is which norm."""

    mlp: str = "post_attention_layernorm"
    attention_out: str | None = None
    mlp_out: str | None = None


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


def as_stored(_shape: ModelShape, _name: str, tensor: Tensor) -> Tensor:
    """Most checkpoints hold what the formulas say."""
    return tensor


def unscaled(_shape: ModelShape) -> float:
    """Most models take embeddings as they are."""
    return 1.0


@dataclass(frozen=True)
class Outer:
    """Weights outside the layers."""

    embedding_VD: Tensor
    norm_D: Tensor
    head: PackedLinear


@dataclass(frozen=True)
class Unused:
    """Names of checkpoint tensors that the model has no use for."""

    names: tuple[str, ...]


Part: TypeAlias = Outer | Layer | Unused
"""A loaded model is a row of parts: the outer weights, the layers in order, what was left over. Parts are
values: dataclasses of tensors, numbers, words, None, tuples of such and other dataclasses."""


@dataclass(frozen=True)
class Family:
    """One architecture of the registry."""

    architecture: str
    layer_tensors: Callable[[ModelShape, int], TensorShapes]
    """Names and shapes of the tensors of one layer."""
    experts: ExpertNames = USUAL_EXPERTS
    """Used where a layer has experts."""
    norms: NormNames = NormNames()
    activation: Activation = "silu"
    embedding_scale: Callable[[ModelShape], float] = unscaled
    """What embeddings are multiplied by, once rounded to their dtype."""
    weight: Callable[[ModelShape, str, Tensor], Tensor] = as_stored
    """From the tensor under a name in a checkpoint to the weight that the shared operations expect."""
