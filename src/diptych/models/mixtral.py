"""Mixtral 8x7B and 8x22B: Mistral with experts.

Shapes: as in `decoder`.
"""

from __future__ import annotations

from diptych.models.decoder import shared_layer_tensors
from diptych.models.family import ExpertNames, Family, GatedNames, TensorShapes
from diptych.performance.model_shape import ModelShape

# Config: every layer has experts, each as wide as `intermediate_size`; the weights of a token's experts add
# up to one; `sliding_window` as in Mistral, mostly null.
EXPERTS = ExpertNames("block_sparse_moe.", GatedNames(gate="w1", up="w3", down="w2"))


# Tensors: the shared ones, the experts under names of their own.
def layer_tensors(shape: ModelShape, layer: int) -> TensorShapes:
    """Names and shapes of one layer."""
    return shared_layer_tensors(shape, layer, EXPERTS)


# Forward: the shared one.
MIXTRAL = Family("MixtralForCausalLM", layer_tensors, EXPERTS)
