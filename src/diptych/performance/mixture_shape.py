"""The experts of a model of the built-in engine, read from its config.

Knows: how the supported families spell them. Does not know: tensors, routing, the other sizes.
"""

from __future__ import annotations

import msgspec

from diptych.performance.config_reader import ConfigReader
from diptych.performance.model_mlp import routed_experts


class MixtureShape(msgspec.Struct, frozen=True, kw_only=True):
    """MLPs of which every token uses a few."""

    experts: int
    experts_per_token: int
    width: int
    """Inner width of one expert."""
    normalise: bool
    """Whether the weights of a token's experts are made to add up to one."""
    dense_layers: tuple[int, ...] = ()
    """Layers that have one MLP instead."""


def mixture_shape(config: ConfigReader, architecture: str, layers: int) -> MixtureShape | None:
    """The experts of a model of ``layers`` layers; None if the architecture has none."""
    match architecture:
        case "MixtralForCausalLM":
            width_key, normalise, dense = "intermediate_size", True, ()
        case "Qwen3MoeForCausalLM":
            width_key, normalise = "moe_intermediate_size", config.flag("norm_topk_prob")
            dense = _dense_layers(config, layers)
        case _:
            return None
    experts, each = routed_experts(config)
    return MixtureShape(
        experts=experts,
        experts_per_token=each,
        width=config.integer(width_key),
        normalise=normalise,
        dense_layers=dense,
    )


def _dense_layers(config: ConfigReader, layers: int) -> tuple[int, ...]:
    """Those listed, and of the others all but every n-th."""
    listed, step = config.integers("mlp_only_layers"), config.integer("decoder_sparse_step", 1)
    return tuple(layer for layer in range(layers) if layer in listed or (layer + 1) % step)
