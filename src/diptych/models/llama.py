"""Llama 2 and 3.

Shapes: as in `decoder`.
"""

from __future__ import annotations

from diptych.models.decoder import shared_layer_tensors
from diptych.models.family import Family, TensorShapes
from diptych.performance.model_shape import ModelShape

# Config: `rope_type: llama3` from 3.1 on; embeddings tied in the small 3.2 models.


# Tensors: the shared ones.
def layer_tensors(shape: ModelShape, layer: int) -> TensorShapes:
    """Names and shapes of one layer."""
    return shared_layer_tensors(shape, layer)


# Forward: the shared one.
LLAMA = Family("LlamaForCausalLM", layer_tensors)
