"""Invariant kernels give a row the same bits in any company; all kernels agree with the reference.

Row independence is the basis of every parity claim (split = unsplit, resumed = undisturbed), so it is tested
with random compositions, chunkings and orders, with one, two and three threads.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from diptych.domain.errors import SpecError
from diptych.kernels.choose import choose_kernels
from diptych.kernels.fast import FastKernels
from diptych.kernels.invariant import InvariantKernels, linear_tile_rows
from diptych.kernels.native.kernels import NativeKernels
from diptych.kernels.native.load import NotNative
from diptych.kernels.reference import ReferenceKernels
from diptych.kernels.seam import AttentionShape, Kernels, PackedLinear, Span

CPU = torch.device("cpu")


def rows_agree(kernels: InvariantKernels, packed: PackedLinear) -> bool:
    """Whether one row gets the same bits at every place of a tile."""
    tile = linear_tile_rows(packed)
    generator = torch.Generator().manual_seed(0)
    x_TD = torch.randn(1, packed.width_in, generator=generator).to(packed.weight.device)
    others_TD = torch.randn(tile, packed.width_in, generator=generator).to(packed.weight.device)
    alone_TN = kernels.linear(x_TD, packed)
    for place in range(tile):
        mixed_TD = others_TD.clone()
        mixed_TD[place] = x_TD[0]
        if not torch.equal(kernels.linear(mixed_TD, packed)[place], alone_TN[0]):
            return False
    return True


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Runs the test with different numbers of compute threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Sequence:
    """Queries of all positions and the paged K and V of one sequence."""

    q_THE: Tensor
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class World:
    """Some sequences of different lengths in one pair of planes."""

    shape: AttentionShape
    k_BKSE: Tensor
    v_BKSE: Tensor
    sequences: tuple[Sequence, ...]


def build_world(lengths: tuple[int, ...], shape: AttentionShape, seed: int) -> World:
    torch.manual_seed(seed)
    counts = [-(-length // shape.block_tokens) for length in lengths]
    ids = list(range(sum(counts) + 3))
    random.Random(seed).shuffle(ids)
    size = (len(ids), shape.kv_heads, shape.block_tokens, shape.head_dim)
    sequences: list[Sequence] = []
    for length, count in zip(lengths, counts, strict=True):
        blocks, ids = tuple(ids[:count]), ids[count:]
        sequences.append(Sequence(torch.randn(length, shape.heads, shape.head_dim), blocks))
    return World(shape, torch.randn(size), torch.randn(size), tuple(sequences))


def run(kernels: Kernels, world: World, pieces: list[tuple[int, int, int]]) -> list[Tensor]:
    """Attention of one step over (sequence, start, rows) pieces; the output rows of each."""
    spans: list[Span] = []
    queries: list[Tensor] = []
    first = 0
    for index, start, rows in pieces:
        sequence = world.sequences[index]
        used = -(-(start + rows) // world.shape.block_tokens)
        spans.append(Span(first, rows, start, sequence.blocks[:used]))
        queries.append(sequence.q_THE[start : start + rows])
        first += rows
    plan = kernels.plan_attention(tuple(spans), world.shape)
    out_THE = kernels.attention(torch.cat(queries), world.k_BKSE, world.v_BKSE, plan)
    return list(out_THE.split([rows for _, _, rows in pieces]))


SHAPES = [
    AttentionShape(heads=4, kv_heads=2, head_dim=64, block_tokens=16),
    AttentionShape(heads=4, kv_heads=4, head_dim=16, block_tokens=4),
    AttentionShape(heads=6, kv_heads=1, head_dim=32, block_tokens=128),
    AttentionShape(heads=4, kv_heads=2, head_dim=8, block_tokens=5),
    AttentionShape(heads=4, kv_heads=2, head_dim=32, block_tokens=16, window=70),
]


@pytest.mark.parametrize(
    "shape", SHAPES, ids=lambda shape: f"{shape.heads}-{shape.kv_heads}-{shape.block_tokens}"
)
def test_attention_bits_do_not_depend_on_chunking_or_company(shape: AttentionShape, threads: int) -> None:
    lengths = (1, 7, 63, 64, 65, 200, 331)
    world = build_world(lengths, shape, seed=threads)
    kernels = InvariantKernels(CPU)
    alone = [run(kernels, world, [(i, 0, length)])[0] for i, length in enumerate(lengths)]
    rng = random.Random(7)
    for _ in range(12):
        pieces: list[tuple[int, int, int]] = []
        for index in rng.sample(range(len(lengths)), rng.randint(1, len(lengths))):
            start = rng.randrange(lengths[index])
            longest = lengths[index] - start
            pieces.append((index, start, rng.choice([1, min(3, longest), rng.randint(1, longest)])))
        for (index, start, rows), out in zip(pieces, run(kernels, world, pieces), strict=True):
            assert torch.equal(out, alone[index][start : start + rows])


def test_attention_bits_do_not_depend_on_the_number_of_threads() -> None:
    world = build_world((300, 40), SHAPES[0], seed=3)
    pieces = [(0, 17, 200), (1, 39, 1)]
    before, results = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(torch.cat(run(InvariantKernels(CPU), world, pieces)))
    torch.set_num_threads(before)
    assert torch.equal(*results)


def test_attention_ignores_what_lies_beyond_the_end_of_a_sequence() -> None:
    world = build_world((21, 90), SHAPES[0], seed=5)
    pieces = [(0, 20, 1), (1, 10, 80)]
    clean = run(InvariantKernels(CPU), world, pieces)
    used = {0: 21 % 16, 1: 90 % 16}
    for index, filled in used.items():
        last = world.sequences[index].blocks[-1]
        world.k_BKSE[last, :, filled:] = float("nan")
        world.v_BKSE[last, :, filled:] = float("nan")
    for before, after in zip(clean, run(InvariantKernels(CPU), world, pieces), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize(
    "shape", SHAPES, ids=lambda shape: f"{shape.heads}-{shape.kv_heads}-{shape.block_tokens}"
)
@pytest.mark.parametrize(
    "kernels", [InvariantKernels(CPU), FastKernels(CPU, torch.float32)], ids=["invariant", "fast"]
)
def test_attention_agrees_with_the_reference(shape: AttentionShape, kernels: Kernels) -> None:
    world = build_world((5, 64, 150), shape, seed=11)
    pieces = [(0, 4, 1), (1, 0, 64), (2, 30, 120), (2, 149, 1)]
    for got, want in zip(run(kernels, world, pieces), run(ReferenceKernels(), world, pieces), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("width_in", "width_out"), [(256, 512), (688, 256), (48, 80), (24, 13), (1024, 1536)]
)
def test_linear_bits_do_not_depend_on_company_or_place(width_in: int, width_out: int, threads: int) -> None:
    torch.manual_seed(threads)
    kernels = InvariantKernels(CPU)
    packed = kernels.pack(torch.randn(width_out, width_in), torch.randn(width_out))
    x_TD = torch.randn(100, width_in)
    whole = kernels.linear(x_TD, packed)
    assert rows_agree(kernels, packed)
    for _ in range(15):
        rows = torch.randperm(100)[: int(torch.randint(1, 100, ()))]
        assert torch.equal(kernels.linear(x_TD[rows], packed), whole[rows])


def test_linear_bits_do_not_depend_on_the_number_of_threads() -> None:
    kernels = InvariantKernels(CPU)
    packed = kernels.pack(torch.randn(2048, 256))
    x_TD = torch.randn(40, 256)
    before, results = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(kernels.linear(x_TD, packed))
    torch.set_num_threads(before)
    assert torch.equal(*results)


@pytest.mark.parametrize("width", [8, 17, 64, 256, 1000, 4096])
def test_norm_and_activation_bits_do_not_depend_on_company(width: int, threads: int) -> None:
    torch.manual_seed(width)
    kernels = InvariantKernels(CPU)
    x, weight = torch.randn(70, width), torch.randn(width)
    gate_up = torch.randn(70, 2 * width)
    norm = kernels.rms_norm(x, weight, 1e-6)
    silu, gelu = kernels.silu_mul(gate_up), kernels.gelu_mul(gate_up)
    for first, count in [(0, 1), (3, 1), (5, 2), (10, 33), (69, 1)]:
        rows = slice(first, first + count)
        assert torch.equal(kernels.rms_norm(x[rows], weight, 1e-6), norm[rows])
        assert torch.equal(kernels.silu_mul(gate_up[rows]), silu[rows])
        assert torch.equal(kernels.gelu_mul(gate_up[rows]), gelu[rows])


def test_invariant_activations_agree_with_the_reference() -> None:
    gate_up = torch.cat((torch.linspace(-60, 60, 999), torch.full((999,), 2.0))).unsqueeze(0)
    gate_up[0, :2] = torch.tensor([-1e30, 1e30])
    kernels, reference = InvariantKernels(CPU), ReferenceKernels()
    torch.testing.assert_close(kernels.silu_mul(gate_up), reference.silu_mul(gate_up), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(kernels.gelu_mul(gate_up), reference.gelu_mul(gate_up), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fast_operations_agree_with_the_reference(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    fast, reference = FastKernels(CPU, dtype), ReferenceKernels()
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-4
    x, weight = torch.randn(9, 64, dtype=dtype), torch.randn(32, 64, dtype=dtype) / 8
    bias, scale = torch.randn(32, dtype=dtype), torch.randn(64, dtype=dtype)
    torch.testing.assert_close(
        fast.linear(x, fast.pack(weight, bias)),
        reference.linear(x, reference.pack(weight, bias)),
        rtol=tolerance,
        atol=tolerance,
    )
    torch.testing.assert_close(
        fast.rms_norm(x, scale, 1e-6), reference.rms_norm(x, scale, 1e-6), rtol=tolerance, atol=tolerance
    )


def test_write_kv_stores_rows_in_their_slots() -> None:
    plane_BKSE = torch.zeros(3, 2, 4, 5)
    x_TKE = torch.randn(3, 2, 5)
    ReferenceKernels().write_kv(plane_BKSE, x_TKE, torch.tensor([1 * 4 + 2, 2 * 4 + 0, 0]))
    assert torch.equal(plane_BKSE[1, :, 2], x_TKE[0])
    assert torch.equal(plane_BKSE[2, :, 0], x_TKE[1])
    assert torch.equal(plane_BKSE[0, :, 0], x_TKE[2])
    assert int((plane_BKSE != 0).sum()) == x_TKE.numel()


def _not_native() -> None:
    raise NotNative("no compiler")


def test_choose_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(choose_kernels("auto", torch.float32, CPU), InvariantKernels)
    assert isinstance(choose_kernels("auto", torch.bfloat16, CPU), NativeKernels | FastKernels)
    monkeypatch.setattr("diptych.kernels.choose.library", _not_native)
    without = choose_kernels("auto", torch.bfloat16, CPU)
    assert isinstance(without, FastKernels)
    assert "no compiler" in without.describe(), "the banner says why"
    assert isinstance(choose_kernels("fast", torch.float32, CPU), FastKernels)
    with pytest.raises(SpecError, match="needs dtype 'float32'"):
        choose_kernels("invariant", torch.bfloat16, CPU)
