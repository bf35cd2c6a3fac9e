"""Rotary position tables, with Llama 3's frequency stretching.

Knows: angles. Does not know: how they are applied (`Kernels.rope`).

Formulas: Su et al., RoFormer (2021); stretching as published with Llama 3.1: wavelengths longer than
``original / low_freq_factor`` are slowed by ``factor``, those shorter than ``original / high_freq_factor``
are kept, and between them the two are mixed linearly.

Shapes: P positions, E head width (tables hold E/2 angles).
"""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

from diptych.performance.model_shape import Llama3Rope, ModelShape


def rotary_table(shape: ModelShape, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of all positions, each [P, E/2] in float32."""
    exponent_E = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    frequency_E = 1.0 / shape.rope_theta**exponent_E
    if shape.rope_scaling is not None:
        frequency_E = _stretch(frequency_E, shape.rope_scaling)
    angle_PE = torch.outer(torch.arange(shape.max_positions, dtype=torch.float32), frequency_E)
    return angle_PE.cos().to(device), angle_PE.sin().to(device)


def _stretch(frequency_E: Tensor, scaling: Llama3Rope) -> Tensor:
    turns_E = scaling.original_max_positions * frequency_E / (2 * pi)
    spread = scaling.high_freq_factor - scaling.low_freq_factor
    keep_E = ((turns_E - scaling.low_freq_factor) / spread).clamp(0.0, 1.0)
    return keep_E * frequency_E + (1 - keep_E) * frequency_E / scaling.factor
