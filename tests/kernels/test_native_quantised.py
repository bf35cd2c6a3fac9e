"""Native linear maps over weights of eight and four bits: the rounded weight exactly, each row on its own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.domain.cluster import WeightFormat
from diptych.kernels.native.kernels import FORMATS
from diptych.kernels.quantised import RoundedWeight, rounded
from support.native_library import native_kernels

pytestmark = pytest.mark.timeout(120)
NARROW: tuple[WeightFormat, ...] = ("int8", "int4")
narrow = st.sampled_from(NARROW)
sizes = st.integers(1, 200)


def _random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def _rounded(weights: WeightFormat, seed: int, outputs: int, width: int) -> RoundedWeight:
    found = rounded(_random(seed, outputs, width), weights)
    assert isinstance(found, RoundedWeight)
    return found


@settings(max_examples=80, deadline=None)
@given(
    narrow,
    st.sampled_from([0, 1, 2, 15, 16, 17, 31, 32, 33, 70]),
    sizes,
    sizes,
    st.booleans(),
    st.integers(0, 99),
)
def test_equals_the_rounded_weight_within_one_rounding(
    weights: WeightFormat, rows: int, outputs: int, width: int, bias: bool, seed: int
) -> None:
    """The sums are exact; a value of a row moves by half a unit of 16 bits at most."""
    kernels = native_kernels()
    x_TD, found = _random(seed, rows, width), _rounded(weights, seed + 1, outputs, width)
    bias_N = _random(seed + 2, outputs) if bias else None
    out_TN = kernels.linear(x_TD, kernels.pack(found, bias_N))
    weight_ND = found.dequantised(torch.float64)
    exact_TN = x_TD.double() @ weight_ND.T + (0 if bias_N is None else bias_N.double())
    moved_T1 = 2**-15 * x_TD.double().abs().amax(1, keepdim=True)
    bound_TN = 2**-8 * exact_TN.abs() + moved_T1 * weight_ND.abs().sum(1) + 1e-6
    assert out_TN.shape == (rows, outputs)
    assert bool(((out_TN.double() - exact_TN).abs() <= bound_TN).all())


@settings(max_examples=40, deadline=None)
@given(narrow, st.integers(2, 70), sizes, sizes, st.sampled_from([1, 2, 3]), st.integers(0, 99))
def test_a_row_has_the_same_bits_in_every_batch_and_on_any_threads(
    weights: WeightFormat, rows: int, outputs: int, width: int, threads: int, seed: int
) -> None:
    kernels = native_kernels(threads)
    x_TD = _random(seed, rows, width)
    packed = kernels.pack(_rounded(weights, seed + 1, outputs, width))
    together_TN = kernels.linear(x_TD, packed)
    other = native_kernels(1)
    alone_TN = torch.cat([other.linear(x_TD[row : row + 1], packed) for row in range(rows)])
    assert torch.equal(together_TN, alone_TN)


@pytest.mark.parametrize("weights", NARROW)
@pytest.mark.parametrize("rows", [65, 600])
@pytest.mark.parametrize(("outputs", "width"), [(64, 257), (257, 700), (40, 2048), (224, 3072)])
def test_many_rows_of_a_wide_map_are_those_of_few(
    weights: WeightFormat, rows: int, outputs: int, width: int
) -> None:
    kernels = native_kernels()
    x_TD = _random(rows, rows, width)
    packed = kernels.pack(_rounded(weights, width, outputs, width), _random(outputs, outputs))
    few_TN = torch.cat([kernels.linear(piece, packed) for piece in x_TD.split(7)])
    assert torch.equal(kernels.linear(x_TD, packed), few_TN)


@pytest.mark.parametrize("weights", NARROW)
@pytest.mark.parametrize("rows", [1, 16, 17, 40, 100])
@pytest.mark.parametrize(("outputs", "width"), [(1, 1), (33, 63), (96, 96), (100, 65)])
def test_every_output_is_written_and_nothing_beside_it(
    weights: WeightFormat, rows: int, outputs: int, width: int
) -> None:
    """Into memory full of NaN, with NaN between and behind the rows."""
    kernels = native_kernels()
    x_TD, bias_N = _random(1, rows, width), _random(2, outputs)
    packed = kernels.pack(_rounded(weights, 3, outputs, width), bias_N)
    apart = outputs + 7
    room = torch.full((rows + 1, apart), float("nan"), dtype=torch.bfloat16)
    kernels._call.dp_linear(
        FORMATS[weights],
        x_TD.data_ptr(),
        width,
        rows,
        packed.weight.data_ptr(),
        bias_N.data_ptr(),
        outputs,
        width,
        room.data_ptr(),
        apart,
        0,
    )
    assert torch.equal(room[:rows, :outputs], kernels.linear(x_TD, packed))
    assert bool(room[:rows, outputs:].isnan().all() and room[rows:].isnan().all())


@pytest.mark.parametrize(("weights", "bits"), [("int8", 8), ("int4", 4.5)])
def test_a_packed_weight_takes_its_bits_and_the_scales(weights: WeightFormat, bits: float) -> None:
    packed = native_kernels().pack(_rounded(weights, 1, 256, 512))
    assert packed.weight.numel() == 256 * 512 * bits / 8 + 256 * 4


def test_damage_reaches_the_outputs() -> None:
    kernels = native_kernels()
    weight_ND = _random(1, 20, 64)
    weight_ND[3, 40] = float("nan")
    for weights in NARROW:
        out_TN = kernels.linear(_random(2, 2, 64), kernels.pack(rounded(weight_ND, weights)))
        assert bool(out_TN[:, 3].isnan().all()) and int(out_TN.isnan().sum()) == 2


def test_rows_of_very_different_size_keep_their_values() -> None:
    """Each row has a power of two of its own: the largest value and those near it are exact."""
    kernels = native_kernels()
    found = _rounded("int8", 3, 40, 96)
    small_TD = _random(5, 6, 96).sign()
    small_TD[:, 7] *= 100
    sizes_T1 = 2.0 ** torch.tensor([[-60.0], [-20.0], [0.0], [3.0], [40.0], [100.0]])
    x_TD = (small_TD.double() * sizes_T1).bfloat16()
    out_TN = kernels.linear(x_TD, kernels.pack(found)).double()
    exact_TN = x_TD.double() @ found.dequantised(torch.float64).T
    assert bool(((out_TN - exact_TN).abs() <= 2**-8 * exact_TN.abs()).all())


def test_rows_that_are_zero_or_not_finite() -> None:
    kernels = native_kernels()
    x_TD = _random(1, 4, 70)
    x_TD[0], x_TD[1, 3], x_TD[2, 69] = 0, float("inf"), float("nan")
    for weights in NARROW:
        out_TN = kernels.linear(x_TD, kernels.pack(_rounded(weights, 2, 20, 70)))
        assert bool((out_TN[0] == 0).all() and out_TN[1:3].isnan().all() and out_TN[3].isfinite().all())


def test_a_map_too_wide_for_whole_sums_is_multiplied_in_bfloat16() -> None:
    kernels = native_kernels()
    codes_ND = torch.full((2, (1 << 17) + 1), 127, dtype=torch.int8)
    packed = kernels.pack(RoundedWeight("int8", codes_ND, None, torch.full((2,), 0.5)))
    assert packed.weights == "same"
    widest = kernels.pack(RoundedWeight("int8", codes_ND[:, 1:].contiguous(), None, torch.full((2,), 0.5)))
    x_TD = torch.full((1, 1 << 17), 254.0, dtype=torch.bfloat16)
    assert kernels.linear(x_TD, widest)[0, 0] == torch.tensor(254.0 * 63.5 * (1 << 17)).bfloat16()
