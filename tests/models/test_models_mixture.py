"""A mixture of experts is its formula, and a token's result is its own, whatever it is computed beside."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from diptych.kernels.fast import FastKernels
from diptych.kernels.invariant import InvariantKernels
from diptych.kernels.quantised import RoundedWeight
from diptych.kernels.reference import ReferenceKernels
from diptych.kernels.seam import Kernels, PackedLinear
from diptych.models.family import ExpertNames
from diptych.models.mixture import Mixture, build_mixture, mixture_tensors
from diptych.models.packing import Packing
from diptych.models.tensors import LayerTensors, TensorSource
from diptych.performance.mixture_shape import MixtureShape
from support.native_library import native_kernels

CPU = torch.device("cpu")
HIDDEN = 72
NAMES = ExpertNames("moe.")
IMPLEMENTATIONS: dict[str, tuple[Callable[[], Kernels], torch.dtype]] = {
    "reference": (ReferenceKernels, torch.float32),
    "invariant": (lambda: InvariantKernels(CPU), torch.float32),
    "fast": (lambda: FastKernels(CPU, torch.float32), torch.float32),
    "fast bfloat16": (lambda: FastKernels(CPU, torch.bfloat16), torch.bfloat16),
    "native": (native_kernels, torch.bfloat16),
}


class Drawn(TensorSource):
    """Random weights that can be asked for again."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self.log: list[str] = []

    def take(self, name: str, expected: tuple[int, ...]) -> Tensor:
        """Always the same for a name."""
        self.log.append(name)
        drawn = torch.randn(expected, generator=torch.Generator().manual_seed(sum(name.encode())))
        return (drawn * (2 / expected[1]) ** 0.5).to(self._dtype)


def shape_of(experts: int, each: int, normalise: bool = True) -> MixtureShape:
    return MixtureShape(experts=experts, experts_per_token=each, width=40, normalise=normalise)


def tensors_of(mixture: MixtureShape, source: TensorSource) -> LayerTensors:
    sizes = mixture_tensors(NAMES, HIDDEN, mixture)
    return LayerTensors(source, "layer.", {f"layer.{name}": size for name, size in sizes.items()})


def built(kernels: Kernels, mixture: MixtureShape, dtype: torch.dtype) -> Mixture:
    return build_mixture(Packing(kernels, "same"), tensors_of(mixture, Drawn(dtype)), NAMES, mixture, "silu")


def rows_of(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, HIDDEN, generator=torch.Generator().manual_seed(count)).to(dtype)


def formula(x_D: Tensor, router_X: Tensor, mixture: MixtureShape, tensors: LayerTensors) -> Tensor:
    """One token in float64, the router's scores given."""
    share_X = router_X.double().softmax(-1)
    best = sorted(range(mixture.experts), key=lambda expert: -share_X[expert].item())
    chosen = best[: mixture.experts_per_token]
    whole = share_X[chosen].sum() if mixture.normalise else 1.0
    total_D = torch.zeros(HIDDEN, dtype=torch.float64)
    for expert in chosen:
        gate_ID, up_ID, down_DI = (
            tensors[f"moe.experts.{expert}.{name}.weight"].double()
            for name in ("gate_proj", "up_proj", "down_proj")
        )
        inner_I = functional.silu(gate_ID @ x_D.double()) * (up_ID @ x_D.double())
        total_D += share_X[expert] / whole * (down_DI @ inner_I)
    return total_D


@pytest.mark.parametrize(
    ("experts", "each", "normalise"), [(8, 3, True), (8, 3, False), (5, 1, True), (4, 4, False)]
)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_equals_the_formula(implementation: str, experts: int, each: int, normalise: bool) -> None:
    make, dtype = IMPLEMENTATIONS[implementation]
    kernels, mixture, x_TD = make(), shape_of(experts, each, normalise), rows_of(23, dtype)
    tensors = tensors_of(mixture, Drawn(dtype))
    found_TD = built(kernels, mixture, dtype).forward(x_TD, kernels)
    router_TX = kernels.linear(x_TD, kernels.pack(tensors["moe.gate.weight"]))
    expected_TD = torch.stack(
        [formula(x_D, router_X, mixture, tensors) for x_D, router_X in zip(x_TD, router_TX, strict=True)]
    )
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert found_TD.dtype == dtype and found_TD.shape == x_TD.shape
    torch.testing.assert_close(found_TD.double(), expected_TD, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("experts", "each"), [(8, 2), (6, 5), (128, 8), (3, 1)])
@pytest.mark.parametrize("implementation", ["invariant", "native"])
def test_a_token_has_the_same_bits_in_every_batch(implementation: str, experts: int, each: int) -> None:
    make, dtype = IMPLEMENTATIONS[implementation]
    kernels, x_TD = make(), rows_of(150, dtype)
    mixture = built(kernels, shape_of(experts, each), dtype)
    whole_TD = mixture.forward(x_TD, kernels)
    for size in (1, 2, 7, 64):
        pieces = [mixture.forward(rows_TD, kernels) for rows_TD in x_TD.split(size)]
        assert torch.equal(torch.cat(pieces), whole_TD)
    shuffled_T = torch.randperm(len(x_TD), generator=torch.Generator().manual_seed(0))
    assert torch.equal(mixture.forward(x_TD[shuffled_T], kernels), whole_TD[shuffled_T])
    assert torch.equal(mixture.forward(x_TD[:1].repeat(90, 1), kernels), whole_TD[:1].repeat(90, 1))


def test_an_expert_without_rows_is_not_computed() -> None:
    kernels = _Counting([])
    mixture = built(kernels, shape_of(8, 2), torch.float32)
    mixture.forward(rows_of(1), kernels)
    assert kernels.log.count("linear") == 1 + 2 * 2


def test_experts_are_packed_one_at_a_time() -> None:
    """At most the gate and up of one expert are taken and not yet packed."""
    mixture, source = shape_of(4, 2), Drawn(torch.float32)
    build_mixture(Packing(_Counting(source.log), "same"), tensors_of(mixture, source), NAMES, mixture, "silu")
    waiting = most = 0
    for entry in source.log:
        waiting = 0 if entry == "pack" else waiting + 1
        most = max(most, waiting)
    assert source.log.count("pack") == 1 + 2 * 4 and most == 2


class _Counting(ReferenceKernels):
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def pack(self, weight_ND: Tensor | RoundedWeight, bias_N: Tensor | None = None) -> PackedLinear:
        self.log.append("pack")
        return super().pack(weight_ND, bias_N)

    def linear(self, x_TD: Tensor, packed: PackedLinear) -> Tensor:
        self.log.append("linear")
        return super().linear(x_TD, packed)
