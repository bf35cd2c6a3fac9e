"""Mistral 7B and its relatives.

Shapes: as in `decoder`.
"""

from __future__ import annotations

from diptych.models.decoder import shared_layer_tensors
from diptych.models.family import Family, TensorShapes
from diptych.performance.model_shape import ModelShape

# Config: `sliding_window` (null in later releases): a token attends to that many positions, itself included.


# Tensors: the shared ones.
def layer_tensors(shape: ModelShape, layer: int) -> TensorShapes:
    """Names and shapes of one layer."""
    return shared_layer_tensors(shape, layer)


# Forward: the shared one; the window is part of the attention's shape.
MISTRAL = Family("MistralForCausalLM", layer_tensors)
