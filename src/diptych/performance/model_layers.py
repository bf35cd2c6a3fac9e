"""What each layer attends to: the window and the rotary embedding, alike in all layers of a model or not.

Knows: how the supported families say it. Does not know: other sizes; how attention is computed.
"""

from __future__ import annotations

import msgspec

from diptych.domain.errors import SpecError
from diptych.performance.config_reader import ConfigReader
from diptych.performance.model_rope import Rope, parse_plain_rope, parse_rope

FULL, SLIDING = "full_attention", "sliding_attention"
"""Layer types, as configs name them."""


class LayerAttention(msgspec.Struct, frozen=True):
    """Attention of one layer."""

    rope: Rope
    window: int | None = None
    """A token sees this many positions, its own included; None: all before it."""


def parse_layer_attention(config: ConfigReader, architecture: str, layers: int) -> tuple[LayerAttention, ...]:
    """Attention of every layer, in order.

    Raises:
        SpecError: a missing, ill-typed or contradictory value; a layer type or rope type that is not known.
    """
    if architecture == "Gemma3ForCausalLM":
        return _alternating(config, layers)
    theta = 1_000_000.0 if architecture == "MixtralForCausalLM" else 10_000.0
    return (LayerAttention(parse_rope(config, default=theta), _window(config, architecture)),) * layers


def _window(config: ConfigReader, architecture: str) -> int | None:
    """Mistral's and Mixtral's; Qwen configs carry the key but switch it off elsewhere."""
    windowed = architecture in ("MistralForCausalLM", "MixtralForCausalLM")
    if not windowed or config.get("sliding_window") is None:
        return None
    return config.integer("sliding_window")


def _alternating(config: ConfigReader, layers: int) -> tuple[LayerAttention, ...]:
    """Gemma 3: layers with a window turn by a base of their own and are never stretched."""
    types = _layer_types(config, layers)
    local = parse_plain_rope(config, SLIDING, "rope_local_base_freq", 10_000.0)
    kinds = {FULL: LayerAttention(parse_rope(config, FULL, 1_000_000.0))}
    if SLIDING in types:
        kinds[SLIDING] = LayerAttention(local, config.integer("sliding_window"))
    return tuple(kinds[kind] for kind in types)


def _layer_types(config: ConfigReader, layers: int) -> tuple[str, ...]:
    """`layer_types`, else every `sliding_window_pattern`-th layer is full (six, if nothing is said)."""
    types = config.texts("layer_types")
    if not types:
        every = config.integer("sliding_window_pattern", 6)
        return tuple(SLIDING if layer % every else FULL for layer in range(1, layers + 1))
    if len(types) != layers:
        raise SpecError(f"{config.source}: 'layer_types' has {len(types)} entries for {layers} layers")
    unknown = set(types) - {FULL, SLIDING}
    if unknown:
        raise SpecError(
            f"{config.source}: layer type {min(unknown)!r} is not supported (supported: {FULL}, {SLIDING})"
        )
    return types
