"""What the feed-forward part needs: dense layers, routed and shared experts, from a config.

Knows: which layers have experts and how many parameters each part has. Does not know: attention, routing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from diptych.domain.errors import SpecError
from diptych.performance.config_reader import ConfigReader

EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "num_routed_experts")
"""Spellings of the number of routed experts."""


@dataclass(frozen=True, slots=True)
class FeedForward:
    """All layers together."""

    others: int
    """Dense layers, shared experts, routers."""
    routed: int = 0
    experts: int = 0
    experts_per_token: int = 0
    expert_layers: int = 0


def dense(config: ConfigReader, layers: int, *, width_key: str, matrices: int, bias: bool) -> FeedForward:
    """``matrices`` is 3 where a gate multiplies the up projection, else 2."""
    hidden, width = config.integer("hidden_size"), config.integer(width_key)
    return FeedForward(others=layers * _mlp(hidden, width, matrices, bias))


def mixture(config: ConfigReader, layers: int, *, width_key: str, bias: bool = False) -> FeedForward:
    """Routed experts in every layer but the dense ones, with or without a shared one."""
    hidden, width = config.integer("hidden_size"), config.integer(width_key)
    experts, each = routed_experts(config)
    dense_layers = _dense_layers(config, layers)
    sparse = layers - dense_layers
    dense_width = config.integer("intermediate_size", width) if dense_layers else width
    router = hidden * experts + (experts if bias else 0)
    others = sparse * (router + _shared(config, hidden, width))
    return FeedForward(
        others=others + dense_layers * _mlp(hidden, dense_width, 3, False),
        routed=sparse * experts * _mlp(hidden, width, 3, bias),
        experts=experts,
        experts_per_token=each,
        expert_layers=sparse,
    )


def routed_experts(config: ConfigReader) -> tuple[int, int]:
    """Routed experts of a layer, in the spelling that this config uses, and how many a token gets."""
    key = next((key for key in EXPERT_KEYS if config.get(key) is not None), EXPERT_KEYS[0])
    experts, each = config.integer(key), config.integer("num_experts_per_tok")
    if each > experts:
        raise SpecError(
            f"{config.source}: 'num_experts_per_tok' {each} of {experts} experts is impossible; "
            f"it must be at most {key!r}"
        )
    return experts, each


def _shared(config: ConfigReader, hidden: int, width: int) -> int:
    """Shared experts: so many of the routed ones' width, or one of its own width behind a gate."""
    of_its_own = config.count("shared_expert_intermediate_size")
    if of_its_own:
        return _mlp(hidden, of_its_own, 3, False) + hidden
    count = config.count("n_shared_experts") or config.count("num_shared_experts")
    return _mlp(hidden, count * width, 3, False)


def _dense_layers(config: ConfigReader, layers: int) -> int:
    kinds = config.texts("mlp_layer_types")
    if kinds:
        return sum(kind == "dense" for kind in kinds)
    for key in ("moe_layer_freq", "decoder_sparse_step"):
        if config.count(key, 1) != 1:
            raise SpecError(f"{config.source}: {key!r} other than 1 is not supported; list 'mlp_layer_types'")
    only = config.get("mlp_only_layers")
    listed = len(cast("list[object]", only)) if isinstance(only, list) else 0
    return min(layers, config.count("first_k_dense_replace") + listed)


def _mlp(hidden: int, width: int, matrices: int, bias: bool) -> int:
    return matrices * hidden * width + ((matrices - 1) * width + hidden if bias else 0)
