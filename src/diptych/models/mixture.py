"""A mixture of experts: every token goes to the few MLPs that its router scores highest.

Knows: its tensors, routing, how tokens are grouped by expert. Does not know: which layers have one.

What a token gets does not depend on its company: each expert computes rows that do not know each other, and
a token's results are added by rank, from the expert that weighs most to the one that weighs least, with one
rounding for each product and each sum.

Shapes: T tokens, D model width, X experts, K experts of a token, R = T·K rows (a token stands in one for each
of its experts).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.kernels.seam import Kernels, PackedLinear
from diptych.models.family import Activation, ExpertNames, TensorShapes
from diptych.models.mlp import GatedMlp, build_gated, gated_tensors
from diptych.models.packing import Packing
from diptych.performance.mixture_shape import MixtureShape


@dataclass(frozen=True)
class Mixture:
    """Implements `FeedForward`."""

    router: PackedLinear
    experts: tuple[GatedMlp, ...]
    experts_per_token: int
    normalise: bool
    """Whether the weights of a token's experts add up to one."""

    def forward(self, x_TD: Tensor, kernels: Kernels) -> Tensor:
        """See `FeedForward.forward`."""
        weights_TK, experts_TK = self._route(x_TD, kernels)
        order_R = experts_TK.flatten().argsort(stable=True)
        rows_RD = x_TD[order_R // self.experts_per_token]
        counts = torch.bincount(experts_TK.flatten(), minlength=len(self.experts)).tolist()
        groups = zip(self.experts, rows_RD.split(counts), strict=True)
        done_RD = torch.cat([expert.forward(rows, kernels) for expert, rows in groups if rows.shape[0]])
        return _weighted_sum(done_RD, order_R.argsort().view_as(experts_TK), weights_TK).to(x_TD.dtype)

    def _route(self, x_TD: Tensor, kernels: Kernels) -> tuple[Tensor, Tensor]:
        """Weights, in float32, and ids of every token's experts, the highest weight first."""
        share_TX = kernels.linear(x_TD, self.router).softmax(-1, dtype=torch.float32)
        weights_TK, experts_TK = share_TX.topk(self.experts_per_token)
        if self.normalise:
            weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True)
        return weights_TK, experts_TK


def _weighted_sum(done_RD: Tensor, place_TK: Tensor, weights_TK: Tensor) -> Tensor:
    """Rank by rank: a reduction, or a fused product and sum, may round by a row's place in the batch."""
    total_TD = done_RD[place_TK[:, 0]] * weights_TK[:, :1]
    for rank in range(1, place_TK.shape[1]):
        total_TD += done_RD[place_TK[:, rank]] * weights_TK[:, rank, None]
    return total_TD


def mixture_tensors(names: ExpertNames, hidden: int, mixture: MixtureShape) -> TensorShapes:
    """Names and shapes of the tensors of one layer's router and experts."""
    shapes: TensorShapes = {f"{names.block}gate.weight": (mixture.experts, hidden)}
    for expert in range(mixture.experts):
        shapes |= gated_tensors(f"{names.block}experts.{expert}.", names.maps, hidden, mixture.width)
    return shapes


def build_mixture(
    packing: Packing,
    tensors: Mapping[str, Tensor],
    names: ExpertNames,
    mixture: MixtureShape,
    activation: Activation,
) -> Mixture:
    """Merge and pack the tensors that `mixture_tensors` names, one expert at a time."""
    return Mixture(
        router=packing.router(tensors[f"{names.block}gate.weight"]),
        experts=tuple(
            build_gated(packing, tensors, f"{names.block}experts.{expert}.", names.maps, activation)
            for expert in range(mixture.experts)
        ),
        experts_per_token=mixture.experts_per_token,
        normalise=mixture.normalise,
    )
