"""What one step of the shape must at least do: bytes to read, operations to multiply.

Knows: the shape's sizes, bits of the formats of weights. Does not know: machines, engines, seconds.
"""

from __future__ import annotations

import json

from benchmarks.peers import SHAPE
from diptych.domain.cluster import WeightFormat

WEIGHT_BITS: dict[WeightFormat, float] = {"same": 16.0, "int8": 8.0, "int4": 4.5}
"""Of one weight of a bfloat16 model, as docs/quantisation.md has them; in four bits, factors are counted."""
SCALE_BYTES: dict[WeightFormat, int] = {"same": 0, "int8": 4, "int4": 4}
"""Of one output."""
KV_BYTES = 2
"""Of one element: bfloat16, whatever the weights are."""

_CONFIG = json.loads((SHAPE / "config.json").read_text(encoding="utf-8"))
HIDDEN, LAYERS, WIDTH = _CONFIG["hidden_size"], _CONFIG["num_hidden_layers"], _CONFIG["head_dim"]
HEADS, KV_HEADS = _CONFIG["num_attention_heads"], _CONFIG["num_key_value_heads"]
MAPS = (
    (WIDTH * (HEADS + 2 * KV_HEADS), HIDDEN),
    (HIDDEN, WIDTH * HEADS),
    (2 * _CONFIG["intermediate_size"], HIDDEN),
    (HIDDEN, _CONFIG["intermediate_size"]),
)
"""Outputs and inputs of the linear maps of a layer."""
HEAD = (_CONFIG["vocab_size"], HIDDEN)


def map_bytes(outputs: int, width_in: int, weights: WeightFormat) -> float:
    """Bytes of one linear map."""
    return outputs * (width_in * WEIGHT_BITS[weights] / 8 + SCALE_BYTES[weights])


def weight_bytes(weights: WeightFormat) -> float:
    """Bytes of all linear maps, which a decode step reads once; the head is never below eight bits."""
    head: WeightFormat = "same" if weights == "same" else "int8"
    return LAYERS * sum(map_bytes(*sizes, weights) for sizes in MAPS) + map_bytes(*HEAD, head)


def kv_bytes(batch: int, context: int) -> float:
    """Bytes of all KV of ``batch`` sequences."""
    return batch * context * LAYERS * 2 * KV_HEADS * WIDTH * KV_BYTES


def decode_bytes(batch: int, context: int, weights: WeightFormat = "same") -> float:
    """Bytes that one token for each of ``batch`` sequences must read: weights once, and all KV."""
    return weight_bytes(weights) + kv_bytes(batch, context)


def decode_s(batch: int, context: int, stream: float, products: float) -> float:
    """Seconds of one token for each of ``batch`` sequences, at so many bytes and operations a second: linear
    maps and attention come one after the other, and each reads and multiplies at once."""
    maps_s = max(weight_bytes("same") / stream, map_flops(batch, heads=batch) / products)
    attention_flops = LAYERS * HEADS * WIDTH * 4 * batch * context
    return maps_s + max(kv_bytes(batch, context) / stream, attention_flops / products)


def map_flops(tokens: int, heads: int) -> float:
    """Operations of all linear maps for each token, and of the head for ``heads`` of them."""
    layer = sum(outputs * width_in for outputs, width_in in MAPS)
    return 2 * tokens * LAYERS * layer + 2 * heads * HEAD[0] * HEAD[1]


def prefill_flops(tokens: int) -> float:
    """Operations of a whole prompt: maps and attention to what is before for each token; after the first map
    of the last layer only for the last token."""
    layer, first = (sum(outputs * width_in for outputs, width_in in maps) for maps in (MAPS, MAPS[:1]))
    maps = 2 * tokens * ((LAYERS - 1) * layer + first) + 2 * (layer - first + HEAD[0] * HEAD[1])
    pairs = (LAYERS - 1) * tokens * (tokens + 1) / 2 + tokens
    return maps + 4 * HEADS * WIDTH * pairs
