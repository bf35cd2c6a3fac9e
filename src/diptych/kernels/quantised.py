"""Weights of linear maps in eight or four bits, with scales.

int8: each row of the weight has one scale, the largest value over 127; levels −127 … 127.
int4: levels −8 … 7. Each 32 inputs of a row have a whole factor, the row has one scale: a weight is level
times factor times scale, and level times factor is an int8. A factor may be negative, so that the long side
of the levels lies where the values are; of the factors that hold every value of the group it is the smallest.

Both round each value to the nearest level: the error is half a step at most (`RoundedWeight.bound`).
Knows: the two formats and their error. Does not know: who multiplies, or in which order codes lie in memory.

Shapes: N outputs, D inputs, G groups of inputs, W inputs of a group.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from diptych.domain.cluster import WeightFormat

GROUP_INPUTS = 32
"""Inputs that share a factor."""

INT8_TOP, INT4_LOW, INT4_HIGH = 127, -8, 7
FACTOR_TOP = 15
"""The largest factor: minus eight times minus sixteen would be no int8."""

LEAST_SCALE = 2.0**-100
"""Of a row whose values are all (nearly) zero: products stay normal numbers."""


@dataclass(frozen=True)
class RoundedWeight:
    """``codes[n, d] · factors[n, g] · scales[n]``, where input d belongs to group g."""

    weights: WeightFormat
    codes_ND: Tensor
    """int8, whatever the format."""
    factors_NG: Tensor | None
    """int8; None: one everywhere."""
    scales_N: Tensor
    """float32."""

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """The rounded weight, [N, D], to one rounding of ``dtype``."""
        return (self.codes_ND.float() * self._steps()).to(dtype)

    def bound(self) -> Tensor:
        """The most that a weight may have moved, [N, D]."""
        return self._steps().abs() / 2

    def _steps(self) -> Tensor:
        """From a level to the next, [N, D]."""
        scales_N1 = self.scales_N.unsqueeze(1)
        if self.factors_NG is None:
            return scales_N1.expand(self.codes_ND.shape)
        steps_NG = self.factors_NG.float() * scales_N1
        return steps_NG.repeat_interleave(GROUP_INPUTS, dim=1)[:, : self.codes_ND.shape[1]]


def rounded(weight_ND: Tensor, weights: WeightFormat) -> Tensor | RoundedWeight:
    """``weight_ND`` in the format; 'same' is the tensor itself."""
    match weights:
        case "same":
            return weight_ND
        case "int8":
            return _int8(weight_ND.float())
        case "int4":
            return _int4(weight_ND.float())


def plain(weight: Tensor | RoundedWeight, like: torch.dtype) -> Tensor:
    """As a tensor that any matrix product takes; a rounded weight becomes one of type ``like``."""
    return weight.dequantised(like) if isinstance(weight, RoundedWeight) else weight


def _int8(weight_ND: Tensor) -> RoundedWeight:
    scales_N = (weight_ND.abs().amax(1) / INT8_TOP).clamp_min(LEAST_SCALE)
    codes_ND = (weight_ND / scales_N.unsqueeze(1)).round_().clamp_(-INT8_TOP, INT8_TOP)
    return RoundedWeight("int8", codes_ND.to(torch.int8), None, scales_N)


def _int4(weight_ND: Tensor) -> RoundedWeight:
    outputs, width_in = weight_ND.shape
    padded_ND = functional.pad(weight_ND, (0, -width_in % GROUP_INPUTS))
    groups_NGW = padded_ND.view(outputs, -1, GROUP_INPUTS)
    least_NG = _least_steps(groups_NGW)
    scales_N = (least_NG.abs().amax(1) / FACTOR_TOP).clamp_min(LEAST_SCALE)
    sizes_NG = torch.ceil(least_NG.abs() / scales_N.unsqueeze(1)).clamp_(1, FACTOR_TOP)
    factors_NG = torch.copysign(sizes_NG, least_NG)
    steps_NG1 = (factors_NG * scales_N.unsqueeze(1)).unsqueeze(2)
    codes_NGW = (groups_NGW / steps_NG1).round_().clamp_(INT4_LOW, INT4_HIGH)
    codes_ND = codes_NGW.to(torch.int8).view(outputs, -1)[:, :width_in]
    return RoundedWeight("int4", codes_ND, factors_NG.to(torch.int8), scales_N)


def _least_steps(groups_NGW: Tensor) -> Tensor:
    """Of each group the least step that holds it, negative if the levels are to be turned. Half a level
    beyond either end still rounds to that end."""
    highest_NG, lowest_NG = groups_NGW.amax(2).clamp_min(0), (-groups_NGW.amin(2)).clamp_min(0)
    upright_NG = torch.maximum(highest_NG / (INT4_HIGH + 0.5), lowest_NG / (0.5 - INT4_LOW))
    turned_NG = torch.maximum(lowest_NG / (INT4_HIGH + 0.5), highest_NG / (0.5 - INT4_LOW))
    return torch.where(upright_NG <= turned_NG, upright_NG, -turned_NG)
