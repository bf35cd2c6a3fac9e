"""Linear maps of the native library against float64, and their promise: a row's bits are its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.kernels.native.load import NotNative, library
from support.native_library import native_kernels

pytestmark = pytest.mark.timeout(120)
sizes = st.integers(1, 200)


def _random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([0, 1, 2, 15, 16, 17, 31, 32, 33, 70]), sizes, sizes, st.booleans(), st.integers(0, 99)
)
def test_equals_the_formula_within_one_rounding(
    rows: int, outputs: int, width: int, bias: bool, seed: int
) -> None:
    kernels = native_kernels()
    x_TD, weight_ND = _random(seed, rows, width), _random(seed + 1, outputs, width)
    bias_N = _random(seed + 2, outputs) if bias else None
    found_TN = kernels.linear(x_TD, kernels.pack(weight_ND, bias_N))
    exact_TN = x_TD.double() @ weight_ND.double().T + (0 if bias_N is None else bias_N.double())
    bound_TN = 2**-8 * exact_TN.abs() + 1e-5 * x_TD.double().abs() @ weight_ND.double().abs().T + 1e-6
    assert found_TN.shape == (rows, outputs)
    assert bool(((found_TN.double() - exact_TN).abs() <= bound_TN).all())


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 70), sizes, sizes, st.sampled_from([1, 2, 3]), st.integers(0, 99))
def test_a_row_has_the_same_bits_in_every_batch_and_on_any_threads(
    rows: int, outputs: int, width: int, threads: int, seed: int
) -> None:
    kernels = native_kernels(threads)
    x_TD = _random(seed, rows, width)
    packed = kernels.pack(_random(seed + 1, outputs, width))
    together_TN = kernels.linear(x_TD, packed)
    other = native_kernels(1)
    alone_TN = torch.cat([other.linear(x_TD[row : row + 1], packed) for row in range(rows)])
    assert torch.equal(together_TN, alone_TN)


@pytest.mark.parametrize("rows", [65, 127, 600])
@pytest.mark.parametrize(("outputs", "width"), [(64, 257), (96, 288), (257, 700), (40, 2048), (224, 3072)])
def test_many_rows_of_a_wide_map_are_those_of_few(rows: int, outputs: int, width: int) -> None:
    """Chunks of rows, a cut through the inputs, and outputs written past the caches change no bit."""
    kernels = native_kernels()
    x_TD = _random(rows, rows, width)
    packed = kernels.pack(_random(width, outputs, width), _random(outputs, outputs))
    few_TN = torch.cat([kernels.linear(piece, packed) for piece in x_TD.split(7)])
    assert torch.equal(kernels.linear(x_TD, packed), few_TN)


def test_more_shares_of_rows_than_there_are_rows() -> None:
    """Rows so wide that each 32 of them are a share: 17 for two threads."""
    kernels = native_kernels(2)
    x_TD, packed = _random(1, 530, 16_640), kernels.pack(_random(2, 33, 16_640))
    few_TN = torch.cat([kernels.linear(piece, packed) for piece in x_TD.split(16)])
    assert torch.equal(kernels.linear(x_TD, packed), few_TN)


def test_rows_may_lie_apart_and_not_on_any_boundary() -> None:
    kernels = native_kernels()
    wide = _random(1, 9, 131)
    x_TD = wide[:, 3:100]
    packed = kernels.pack(_random(2, 50, 97))
    assert torch.equal(kernels.linear(x_TD, packed), kernels.linear(x_TD.contiguous(), packed))
    flat = _random(3, 97 * 4 + 1)[1:].view(4, 97)
    assert torch.equal(kernels.linear(flat, packed), kernels.linear(flat.clone(), packed))


def test_other_types_and_widths_are_refused() -> None:
    kernels = native_kernels()
    packed = kernels.pack(_random(2, 8, 32))
    with pytest.raises(TypeError, match="bfloat16"):
        kernels.linear(torch.zeros(1, 32), packed)
    with pytest.raises(ValueError, match="32 inputs"):
        kernels.linear(_random(1, 1, 31), packed)


@pytest.mark.parametrize(("switch", "reason"), [("torch", "=torch$"), ("amx", "'torch' and 'vectors'")])
def test_the_switch_turns_them_off(switch: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_KERNELS", switch)
    with pytest.raises(NotNative, match=reason):
        library.__wrapped__()


def test_the_unit_follows_from_the_processor_and_the_switch() -> None:
    """In a process of its own: the library is told once."""
    native_kernels()
    program = (
        "from diptych.kernels.native.load import library, processor_features, NEEDED_FOR_TILES as tiles;"
        "print(library().dp_on_tiles(), int(processor_features().issuperset(tiles)))"
    )
    for switch in ("", "vectors"):
        environment = os.environ | {"DIPTYCH_KERNELS": switch}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        used, there = done.stdout.split()
        assert used == ("0" if switch else there)
