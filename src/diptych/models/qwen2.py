"""Qwen 2 and 2.5.

Shapes: as in `decoder`.
"""

from __future__ import annotations

from diptych.models.decoder import shared_layer_tensors
from diptych.models.family import Family, TensorShapes
from diptych.performance.model_shape import ModelShape

# Config: q, k and v have biases, the output projection has none; embeddings tied in the small models.


# Tensors: the shared ones and three biases.
def layer_tensors(shape: ModelShape, layer: int) -> TensorShapes:
    """Names and shapes of one layer."""
    prefix = f"model.layers.{layer}.self_attn."
    return shared_layer_tensors(shape, layer) | {
        f"{prefix}q_proj.bias": (shape.query_width,),
        f"{prefix}k_proj.bias": (shape.kv_width,),
        f"{prefix}v_proj.bias": (shape.kv_width,),
    }


# Forward: the shared one; the bias is part of the merged map.
QWEN2 = Family("Qwen2ForCausalLM", layer_tensors)
