"""Qwen 3 with experts.

Shapes: as in `decoder`.
"""

from __future__ import annotations

from diptych.models import qwen3
from diptych.models.family import Family

# Config: experts are `moe_intermediate_size` wide; `norm_topk_prob` says whether the weights of a token's
# experts add up to one; `mlp_only_layers` and `decoder_sparse_step` name layers with one MLP instead.

# Tensors: Qwen 3's; a layer's experts lie where its one MLP would.

# Forward: the shared one; heads are normed before rotary embedding.
QWEN3_MOE = Family("Qwen3MoeForCausalLM", qwen3.layer_tensors)
