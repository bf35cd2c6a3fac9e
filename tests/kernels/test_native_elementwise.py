"""Norms, rotary embedding, activation and the KV store of the native library against torch in float32."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.kernels.fast import FastKernels
from diptych.kernels.seam import AttentionShape, HeadNorms, Kernels, Planes, Rotation
from support.native_library import native_kernels

pytestmark = pytest.mark.timeout(120)
ULP = 2**-7
"""Two roundings to bfloat16, relative."""

rows = st.sampled_from([0, 1, 3, 40])
seeds = st.integers(0, 999)


def _random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def _torch() -> FastKernels:
    return FastKernels(torch.device("cpu"), torch.float32)


def _close(found: torch.Tensor, wanted: torch.Tensor, scale: float = 1.0) -> bool:
    return bool(((found.float() - wanted).abs() <= ULP * (wanted.abs() + 0.01 * scale)).all())


@settings(max_examples=40, deadline=None)
@given(rows, st.integers(1, 300), seeds)
def test_norm_of_rows(count: int, width: int, seed: int) -> None:
    x, weight = _random(seed, count, width), _random(seed + 1, width)
    wanted = _torch().rms_norm(x.float(), weight.float(), 1e-6)
    assert _close(native_kernels().rms_norm(x, weight, 1e-6), wanted)


@settings(max_examples=40, deadline=None)
@given(rows, st.integers(1, 5), st.sampled_from([64, 96, 128, 34]), seeds)
def test_heads_of_a_merged_projection(count: int, heads: int, width: int, seed: int) -> None:
    merged = _random(seed, count, 3 * heads * width + 1)
    x = merged[:, heads * width : 2 * heads * width].unflatten(-1, (heads, width))
    kernels, torch_kernels = native_kernels(), _torch()
    weight = _random(seed + 1, width)
    assert _close(kernels.rms_norm(x, weight, 1e-6), torch_kernels.rms_norm(x.float(), weight.float(), 1e-6))


@settings(max_examples=40, deadline=None)
@given(rows, st.integers(1, 200), seeds)
def test_gated_activation(count: int, width: int, seed: int) -> None:
    x = 8 * _random(seed, count, 2 * width)
    assert _close(native_kernels().silu_mul(x), _torch().silu_mul(x.float()), 0.1)
    assert _close(native_kernels().gelu_mul(x), _torch().gelu_mul(x.float()), 0.1)


def test_activations_of_the_widest_gates() -> None:
    """Their powers overflow, the result does not."""
    gate = torch.tensor([3e38, -3e38, 1e20, -1e20, 0.0]).bfloat16()
    x = torch.cat((gate, torch.ones(5).bfloat16())).unsqueeze(0)
    for activation in (native_kernels().silu_mul, native_kernels().gelu_mul, _torch().gelu_mul):
        assert torch.equal(activation(x)[0].clamp(min=-1), gate.clamp(min=0))


@settings(max_examples=60, deadline=None)
@given(rows, st.integers(1, 4), st.integers(1, 4), st.sampled_from([64, 96, 34]), st.booleans(), seeds)
def test_heads_go_to_their_places_and_nowhere_else(
    count: int, kv_heads: int, group: int, width: int, normed: bool, seed: int
) -> None:
    """Without norms, which torch sums in another order, every bit is torch's."""
    block_tokens = 5 if seed % 2 else 16
    shape = AttentionShape(kv_heads * group, kv_heads, width, block_tokens)
    merged = _random(seed, count, (kv_heads * (group + 2)) * width + 7)[:, 7:]
    angles = _random(seed + 1, count, width // 2).float()
    rotation = Rotation(angles.cos().bfloat16(), angles.sin().bfloat16())
    norms = HeadNorms(_random(seed + 2, width), _random(seed + 3, width), 1e-6) if normed else None
    slots = torch.randperm(12 * block_tokens, generator=torch.Generator().manual_seed(seed))[:count]
    found = _placed(native_kernels(), merged, norms, rotation, slots, shape)
    wanted = _placed(FastKernels(torch.device("cpu"), torch.bfloat16), merged, norms, rotation, slots, shape)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.isnan(), other.isnan()), "what nobody stores stays as it was"
        if not normed:
            assert torch.equal(one.nan_to_num(), other.nan_to_num())
        assert torch.allclose(one.nan_to_num().float(), other.nan_to_num().float(), rtol=3 * ULP, atol=0.05)


def _placed(
    kernels: Kernels,
    merged: torch.Tensor,
    norms: HeadNorms | None,
    rotation: Rotation,
    slots: torch.Tensor,
    shape: AttentionShape,
) -> tuple[torch.Tensor, ...]:
    size = (12, shape.kv_heads, shape.block_tokens, shape.head_dim)
    k, v = (torch.full(size, float("nan")).bfloat16() for _ in range(2))
    return kernels.place(merged, norms, rotation, Planes(k, v), slots, shape), k, v


@settings(max_examples=40, deadline=None)
@given(rows, st.integers(1, 300), seeds)
def test_norm_of_a_sum(count: int, width: int, seed: int) -> None:
    x, more, weight = _random(seed, count, width), _random(seed + 1, count, width), _random(seed + 2, width)
    kernels = native_kernels()
    total, normed = kernels.add_norm(x, more, weight, 1e-6)
    assert torch.equal(total, x + more)
    assert torch.equal(normed, kernels.rms_norm(total, weight, 1e-6))


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 5), st.integers(1, 200), st.integers(0, 3), seeds)
def test_the_likeliest_of_each_row(count: int, width: int, spread: int, seed: int) -> None:
    """Few distinct values, so that the highest are often several: the first counts. Zeros of both signs are
    one number."""
    logits = (spread * _random(seed, count, width)).round().bfloat16()
    found, finite = native_kernels().likeliest(logits)
    assert found == [row.index(max(row)) for row in logits.tolist()]
    assert finite == [True] * count


@pytest.mark.parametrize("place", [0, 31, 32, 76])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_is_seen(place: int, value: float) -> None:
    logits = _random(1, 3, 77)
    logits[1, place] = value
    for kernels in (native_kernels(), _torch()):
        assert kernels.likeliest(logits)[1] == [True, False, True]
    if value > 0:
        assert native_kernels().likeliest(logits)[0][1] == place
