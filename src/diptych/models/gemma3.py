"""Gemma 3, text.

Shapes: as in `decoder`.
"""

from __future__ import annotations

from torch import Tensor

from diptych.models.decoder import shared_layer_tensors
from diptych.models.family import Family, NormNames, TensorShapes
from diptych.performance.model_shape import ModelShape

# Config: layers with a sliding window and a rotary base of their own alternate with full ones, whose
# positions may be stretched; scores are divided by the root of `query_pre_attn_scalar`; embeddings are tied;
# scores and logits are not capped, as they were in Gemma 2.


# Tensors: the shared ones, norms of query and key heads, and norms around attention and MLP on both sides.
def layer_tensors(shape: ModelShape, layer: int) -> TensorShapes:
    """Names and shapes of one layer."""
    prefix = f"model.layers.{layer}."
    return shared_layer_tensors(shape, layer) | {
        f"{prefix}self_attn.q_norm.weight": (shape.head_dim,),
        f"{prefix}self_attn.k_norm.weight": (shape.head_dim,),
        f"{prefix}pre_feedforward_layernorm.weight": (shape.hidden,),
        f"{prefix}post_feedforward_layernorm.weight": (shape.hidden,),
    }


NORMS = NormNames(
    mlp="pre_feedforward_layernorm",
    attention_out="post_attention_layernorm",
    mlp_out="post_feedforward_layernorm",
)


def weight(shape: ModelShape, name: str, tensor: Tensor) -> Tensor:
    """Norms are stored less one. Where the scale of scores is not the usual one, the ratio goes into the norm
    of queries: rotation is linear, so the scores are the same, and attention need not know. Sum and product
    are taken in float32 and rounded once, so that a norm's weight is as exact as every other."""
    if not name.endswith("norm.weight"):
        return tensor
    whole = 1.0 + tensor.float()
    if name.endswith("q_norm.weight"):
        whole *= (shape.head_dim / shape.query_pre_attn_scalar) ** 0.5
    return whole.to(tensor.dtype)


def embedding_scale(shape: ModelShape) -> float:
    """The head is tied to the embedding, but is not scaled: so this cannot go into the weight."""
    return shape.hidden**0.5


# Forward: the shared one; attention's and the MLP's outputs are normed before they are added.
GEMMA3 = Family(
    "Gemma3ForCausalLM",
    layer_tensors,
    norms=NORMS,
    activation="gelu",
    embedding_scale=embedding_scale,
    weight=weight,
)
