"""Qwen 3, dense.

Shapes: as in `decoder`.
"""

from __future__ import annotations

from torch import Tensor

from diptych.kernels.seam import Kernels
from diptych.models.decoder import project_merged, shared_layer_tensors
from diptych.models.family import Family, Layer, TensorShapes
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


# Forward: heads are normed before rotary embedding.
def project(x_TD: Tensor, layer: Layer, kernels: Kernels, shape: ModelShape) -> tuple[Tensor, Tensor, Tensor]:
    """See `Family.project`."""
    q_THE, k_TKE, v_TKE = project_merged(x_TD, layer, kernels, shape)
    assert layer.query_norm_E is not None and layer.key_norm_E is not None
    q_THE = kernels.rms_norm(q_THE, layer.query_norm_E, shape.rms_eps)
    return q_THE, kernels.rms_norm(k_TKE, layer.key_norm_E, shape.rms_eps), v_TKE


QWEN3 = Family("Qwen3ForCausalLM", layer_tensors, project)
