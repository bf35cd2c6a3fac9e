"""Weights in eight and four bits: how far a value moves, and what torch's kernels make of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.domain.cluster import WeightFormat
from diptych.kernels.fast import FastKernels
from diptych.kernels.invariant import InvariantKernels
from diptych.kernels.quantised import GROUP_INPUTS, RoundedWeight, plain, rounded
from diptych.kernels.reference import ReferenceKernels

NARROW: tuple[WeightFormat, ...] = ("int8", "int4")
narrow = st.sampled_from(NARROW)
sizes = st.integers(1, 100)
SLACK = 1 + 1e-6
"""For the roundings of the bound itself, in float32."""


def _weight(seed: int, outputs: int, width: int, spread: float = 0.0) -> torch.Tensor:
    """Rows and inputs of very different size where ``spread`` is large."""
    generator = torch.Generator().manual_seed(seed)
    weight_ND = torch.randn(outputs, width, generator=generator)
    return weight_ND * torch.exp(spread * torch.randn(outputs, width, generator=generator))


def _rounded(weight_ND: torch.Tensor, weights: WeightFormat) -> RoundedWeight:
    found = rounded(weight_ND, weights)
    assert isinstance(found, RoundedWeight)
    return found


@settings(max_examples=80, deadline=None)
@given(narrow, sizes, sizes, st.sampled_from([0.0, 1.0, 3.0]), st.integers(0, 99))
def test_no_value_moves_by_more_than_half_a_scale(
    weights: WeightFormat, outputs: int, width: int, spread: float, seed: int
) -> None:
    weight_ND = _weight(seed, outputs, width, spread)
    found = _rounded(weight_ND, weights)
    moved_ND = (found.dequantised(torch.float64) - weight_ND.double()).abs()
    slack_ND = 1e-6 * weight_ND.double().abs()
    assert found.codes_ND.shape == weight_ND.shape
    assert bool((moved_ND <= found.bound().double() * SLACK + slack_ND).all())


def test_the_bound_follows_from_the_largest_value_of_a_row_or_group() -> None:
    weight_ND = _weight(1, 7, 70)
    assert torch.allclose(_rounded(weight_ND, "int8").bound(), weight_ND.abs().amax(1, keepdim=True) / 254)
    groups = weight_ND.split(GROUP_INPUTS, dim=1)
    for group_NW, bound_NW in zip(
        groups, _rounded(weight_ND, "int4").bound().split(GROUP_INPUTS, 1), strict=True
    ):
        worst_N1 = group_NW.abs().amax(1, keepdim=True) / 15 + weight_ND.abs().amax(1, keepdim=True) / 15**2
        assert bool((bound_NW <= worst_N1).all())


@pytest.mark.parametrize("ends", [(-1.0, 1.0), (-1.0, 0.2), (-0.2, 1.0), (0.0, 1.0), (-1.0, 0.0)])
def test_a_lopsided_group_uses_its_long_side(ends: tuple[float, float]) -> None:
    weight_ND = torch.linspace(*ends, GROUP_INPUTS).unsqueeze(0)
    found = _rounded(weight_ND, "int4")
    assert bool(((found.dequantised(torch.float32) - weight_ND).abs() <= found.bound() * SLACK).all())
    if max(ends) != -min(ends):
        assert found.codes_ND.min() == -8


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, st.sampled_from([0.0, 3.0]), st.integers(0, 99))
def test_level_times_factor_is_an_int8(outputs: int, width: int, spread: float, seed: int) -> None:
    found = _rounded(_weight(seed, outputs, width, spread), "int4")
    assert found.factors_NG is not None
    factors_ND = found.factors_NG.int().repeat_interleave(GROUP_INPUTS, 1)[:, :width]
    assert found.codes_ND.min() >= -8 and found.codes_ND.max() <= 7
    assert (found.codes_ND.int() * factors_ND).abs().max() <= 127


@pytest.mark.parametrize("weights", NARROW)
def test_rounding_twice_is_rounding_once(weights: WeightFormat) -> None:
    once_ND = _rounded(_weight(3, 20, 90), weights).dequantised(torch.float32)
    again_ND = _rounded(once_ND, weights).dequantised(torch.float32)
    assert torch.allclose(once_ND, again_ND, rtol=0.07)


@pytest.mark.parametrize("weights", NARROW)
def test_zeros_stay_zeros_and_damage_stays_visible(weights: WeightFormat) -> None:
    weight_ND = torch.zeros(3, 40)
    assert torch.equal(_rounded(weight_ND, weights).dequantised(torch.bfloat16).float(), weight_ND)
    for damage in (float("nan"), float("inf")):
        weight_ND[1, 5] = damage
        assert not bool(_rounded(weight_ND, weights).dequantised(torch.float32)[1].isfinite().all())


def test_same_is_the_tensor_itself() -> None:
    weight_ND = _weight(1, 2, 3)
    assert rounded(weight_ND, "same") is weight_ND
    assert plain(weight_ND, torch.bfloat16) is weight_ND


@pytest.mark.parametrize("weights", NARROW)
def test_the_kernels_of_torch_multiply_what_the_weight_was_rounded_to(weights: WeightFormat) -> None:
    found, x_TD = _rounded(_weight(5, 33, 70), weights), _weight(6, 9, 70)
    bias_N = _weight(7, 33, 1).flatten()
    exact_TN = x_TD.double() @ found.dequantised(torch.float32).double().T + bias_N.double()
    cpu = torch.device("cpu")
    for kernels in (InvariantKernels(cpu), ReferenceKernels(), FastKernels(cpu, torch.float32)):
        out_TN = kernels.linear(x_TD, kernels.pack(found, bias_N))
        assert torch.allclose(out_TN.double(), exact_TN, rtol=1e-5, atol=1e-5)
    fast = FastKernels(cpu, torch.bfloat16)
    out_TN = fast.linear(x_TD.bfloat16(), fast.pack(found, bias_N.bfloat16()))
    assert torch.allclose(out_TN.double(), exact_TN, rtol=0.02, atol=0.1)
