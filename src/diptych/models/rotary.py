"""Rotary position tables, with the stretchings for long contexts.

Knows: angles. Does not know: how they are applied (`Kernels.rope`), how configs spell them.

Formulas: Su et al., RoFormer (2021). Llama 3's stretching as published with Llama 3.1: wavelengths longer
than ``original / low_freq_factor`` are slowed by ``factor``, those shorter than ``original /
high_freq_factor`` are kept, and between them the two are mixed linearly. YaRN: Peng et al. (2023), §3.2. Far
into a long context the last bit of a frequency shows in the angle, so YaRN's order of operations is that of
transformers.

Shapes: P positions, E head width (tables hold E/2 angles).
"""

from __future__ import annotations

from math import ceil, floor, log, pi

import torch
from torch import Tensor

from diptych.performance.model_rope import LinearRope, Llama3Rope, Rope, YarnRope


def rotary_table(
    rope: Rope, head_dim: int, positions: int, *, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of all positions, each [P, E/2], computed in float32."""
    angle_PE = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies(rope, head_dim))
    size = rope.scaling.attention_factor if isinstance(rope.scaling, YarnRope) else 1.0
    return (angle_PE.cos() * size).to(device, dtype), (angle_PE.sin() * size).to(device, dtype)


def frequencies(rope: Rope, head_dim: int) -> Tensor:
    """By how much one position turns each pair, [E/2] in float32."""
    exponent_E = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequency_E = 1.0 / rope.theta**exponent_E
    match rope.scaling:
        case None:
            return frequency_E
        case LinearRope(factor=factor):
            return frequency_E / factor
        case Llama3Rope():
            return _stretch_low(frequency_E, rope.scaling)
        case YarnRope():
            slowed_E = 1.0 / (rope.scaling.factor * rope.theta**exponent_E)
            keep_E = 1 - _ramp(rope.scaling, rope.theta, head_dim)
            return slowed_E * (1 - keep_E) + frequency_E * keep_E


def _stretch_low(frequency_E: Tensor, scaling: Llama3Rope) -> Tensor:
    turns_E = scaling.original_max_positions * frequency_E / (2 * pi)
    spread = scaling.high_freq_factor - scaling.low_freq_factor
    keep_E = ((turns_E - scaling.low_freq_factor) / spread).clamp(0.0, 1.0)
    return keep_E * frequency_E + (1 - keep_E) * frequency_E / scaling.factor


def _ramp(scaling: YarnRope, theta: float, head_dim: int) -> Tensor:
    """How far each pair is slowed, [E/2]: 0 before the pair that turns `beta_fast` times, 1 behind the one
    that turns `beta_slow` times over the original positions."""
    first, last = (
        head_dim * log(scaling.original_max_positions / (turns * 2 * pi)) / (2 * log(theta))
        for turns in (scaling.beta_fast, scaling.beta_slow)
    )
    if scaling.truncate:
        first, last = floor(first), ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    width = last - first if last != first else 0.001
    return ((torch.arange(head_dim // 2, dtype=torch.float32) - first) / width).clamp(0, 1)
