"""Qwen 3, dense.

Shapes: as in `decoder`.
"""

from __future__ import annotations

from diptych.models.decoder import shared_layer_tensors
from diptych.models.family import Family, TensorShapes
from diptych.performance.model_shape import ModelShape

# Config: `head_dim` is independent of the model width; every query and key head is normed; no biases.


# Tensors: the shared ones and two norms, each shared by all heads of a layer.
def layer_tensors(shape: ModelShape, layer: int) -> TensorShapes:
    """Names and shapes of one layer."""
    prefix = f"model.layers.{layer}.self_attn."
    return shared_layer_tensors(shape, layer) | {
        f"{prefix}q_norm.weight": (shape.head_dim,),
        f"{prefix}k_norm.weight": (shape.head_dim,),
    }


# Forward: the shared one; heads are normed before rotary embedding.
QWEN3 = Family("Qwen3ForCausalLM", layer_tensors)
