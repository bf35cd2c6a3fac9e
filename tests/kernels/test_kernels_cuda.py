"""What runs on a CUDA device, run on a CPU: torch's attention over gathered pages, and every argument that
FlashInfer would get, against the reference."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import support.flashinfer_on_cpu as library
from diptych.domain.errors import SpecError
from diptych.kernels import cuda_device
from diptych.kernels.choose import choose_kernels
from diptych.kernels.cuda import CudaKernels
from diptych.kernels.cuda_device import cuda_devices, open_device
from diptych.kernels.flashinfer_paged import FlashInferAttention, NoFlashInfer, load_flashinfer
from diptych.kernels.gathered import GatheredAttention
from diptych.kernels.invariant import InvariantKernels
from diptych.kernels.page_table import page_table
from diptych.kernels.reference import ReferenceKernels
from diptych.kernels.seam import AttentionShape, Span
from support.paged_world import PagedWorld, paged_worlds

CPU = torch.device("cpu")
FLOAT32: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
BFLOAT16 = 0.05
"""Operands are rounded to bfloat16 (2⁻⁹ relative), values and their mixtures are of order one."""


def with_flashinfer() -> CudaKernels:
    return CudaKernels(CPU, torch.bfloat16, FlashInferAttention(library, CPU, torch.bfloat16))


# ---------------------------------------------------------------- page tables


spans = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 90), st.integers(0, 3)), min_size=1, max_size=6)


@given(spans, st.integers(1, 17))
def test_a_page_table_names_every_position_once(parts: list[tuple[int, int, int]], tokens: int) -> None:
    """Positions are found again from the four lists alone."""
    made, row, block = list[Span](), 0, 0
    for rows, start, more in parts:
        count = -(-(start + rows) // tokens) + more
        made.append(Span(row, rows, start, tuple(range(block, block + count))))
        row, block = row + rows, block + count
    table = page_table(made, tokens)
    assert table.query_starts[0] == table.page_starts[0] == 0
    assert table.page_starts[-1] == len(table.pages)
    for i, span in enumerate(made):
        assert table.query_starts[i + 1] - table.query_starts[i] == span.rows
        pages = table.pages[table.page_starts[i] : table.page_starts[i + 1]]
        assert 1 <= table.last_page_tokens[i] <= tokens
        held = [tokens] * (len(pages) - 1) + [table.last_page_tokens[i]]
        slots = [(page, slot) for page, full in zip(pages, held, strict=True) for slot in range(full)]
        assert slots == [(span.blocks[p // tokens], p % tokens) for p in range(span.context)]


# ---------------------------------------------------------------- attention


@settings(max_examples=150)
@given(paged_worlds())
def test_gathered_attention_equals_the_reference(world: PagedWorld) -> None:
    kernels = CudaKernels(CPU, torch.float32, None)
    torch.testing.assert_close(world.run(kernels), world.expected(), **FLOAT32)


@settings(max_examples=60)
@given(paged_worlds(kinds=("decodes", "mixed")), st.integers(1, 300))
def test_how_much_is_gathered_at_a_time_changes_nothing(world: PagedWorld, most_positions: int) -> None:
    kernels = CudaKernels(CPU, torch.float32, None, gathered=GatheredAttention(CPU, most_positions))
    torch.testing.assert_close(world.run(kernels), world.expected(), **FLOAT32)


@settings(max_examples=60)
@given(paged_worlds(widths=(64,)))
def test_flashinfer_is_told_what_the_reference_computes(world: PagedWorld) -> None:
    found_THE = world.run(with_flashinfer(), dtype=torch.bfloat16)
    for plane in (world.k_BKSE, world.v_BKSE, world.q_THE):
        plane.copy_(plane.bfloat16())
    torch.testing.assert_close(found_THE, world.expected(), rtol=0, atol=BFLOAT16)


@pytest.mark.parametrize("kind", ["flashinfer", "gathered"])
@settings(max_examples=40)
@given(st.data())
def test_a_held_plan_follows_other_sequences(kind: str, data: st.DataObject) -> None:
    """One plan, refilled for sequence after sequence, as a graph's is."""
    dtype = torch.bfloat16 if kind == "flashinfer" else torch.float32
    kernels = with_flashinfer() if kind == "flashinfer" else CudaKernels(CPU, dtype, None)
    first = data.draw(paged_worlds(widths=(64,), kinds=("decodes",)))
    held, rows = None, len(first.spans)
    for seed in data.draw(st.lists(st.integers(0, 9999), min_size=1, max_size=3)):
        shape = first.shape
        world = PagedWorld(
            seed, shape.kv_heads, shape.group, 64, shape.block_tokens, shape.window, kind="decodes"
        )
        held = held or kernels.hold(rows, 131, shape)
        assert held is not None
        chosen = [world.spans[i % len(world.spans)] for i in range(rows)]
        held.refill(chosen)
        q_THE = world.q_THE[[span.first_row for span in chosen]].to(dtype)
        found_THE = kernels.attention(q_THE, world.k_BKSE.to(dtype), world.v_BKSE.to(dtype), held).float()
        expected_THE = world.expected()[[span.first_row for span in chosen]]
        tolerance: dict[str, Any] = {"rtol": 0, "atol": 2 * BFLOAT16} if kind == "flashinfer" else FLOAT32
        torch.testing.assert_close(found_THE, expected_THE, **tolerance)


def test_gathered_graphs_are_few_and_no_larger_than_memory_allows() -> None:
    gathered = GatheredAttention(CPU, most_positions=1024)
    widths = {gathered.held_blocks(blocks, 100) for blocks in range(1, 101)}
    assert widths == {1, 2, 4, 8, 16, 32, 64, 100}
    shape = AttentionShape(heads=2, kv_heads=1, head_dim=8, block_tokens=16)
    assert gathered.hold(8, 8, shape) is not None
    assert gathered.hold(8, 9, shape) is None
    windowed = AttentionShape(heads=2, kv_heads=1, head_dim=8, block_tokens=16, window=17)
    assert gathered.hold(8, 1000, windowed) is not None, "a window is never wider than three blocks of these"


def test_flashinfer_takes_what_it_has_kernels_for_and_torch_the_rest() -> None:
    attention = FlashInferAttention(library, CPU, torch.bfloat16)
    shape = AttentionShape(heads=4, kv_heads=2, head_dim=128, block_tokens=16)
    assert attention.takes(shape)
    assert not attention.takes(AttentionShape(heads=4, kv_heads=2, head_dim=80, block_tokens=16))
    assert not FlashInferAttention(library, CPU, torch.float32).takes(shape)
    world = PagedWorld(5, 2, 2, 80, 16, None, kind="mixed")
    found_THE = world.run(with_flashinfer(), dtype=torch.bfloat16)
    torch.testing.assert_close(found_THE, world.expected(), rtol=0, atol=2 * BFLOAT16)


def test_linear_maps_equal_the_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    weight_ND, bias_N = torch.randn(9, 6, generator=generator), torch.randn(9, generator=generator)
    x_TD = torch.randn(4, 6, generator=generator)
    kernels, reference = CudaKernels(CPU, torch.float32, None), ReferenceKernels()
    packed = kernels.pack(weight_ND, bias_N)
    assert (packed.width_in, packed.width_out) == (6, 9)
    expected_TN = reference.linear(x_TD, reference.pack(weight_ND, bias_N))
    torch.testing.assert_close(kernels.linear(x_TD, packed), expected_TN)


# ---------------------------------------------------------------- choice


def test_on_cuda_flashinfer_is_chosen_where_it_is_and_said_to_be_missing_where_it_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = torch.device("cuda")
    monkeypatch.setattr("diptych.kernels.choose.load_flashinfer", lambda: library)
    monkeypatch.setattr("diptych.kernels.choose.FlashInferAttention", lambda *_: SimpleNamespace())
    there = choose_kernels("auto", torch.bfloat16, device)
    assert isinstance(there, CudaKernels) and "(FlashInfer;" in there.describe()
    single = choose_kernels("auto", torch.float32, device).describe()
    assert "torch's attention" in single and "FlashInfer knows no float32" in single
    assert isinstance(choose_kernels("invariant", torch.float32, device), InvariantKernels)

    def missing() -> None:
        raise NoFlashInfer("FlashInfer is not installed: do this")

    monkeypatch.setattr("diptych.kernels.choose.load_flashinfer", missing)
    assert choose_kernels("auto", torch.bfloat16, device).describe().endswith("not installed: do this)")


def test_flashinfer_that_is_missing_and_one_that_is_broken_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = ModuleType("flashinfer")
    monkeypatch.setitem(sys.modules, "flashinfer", module)
    assert load_flashinfer() is module
    monkeypatch.setitem(sys.modules, "flashinfer", None)
    with pytest.raises(NoFlashInfer, match="not installed: pip install"):
        load_flashinfer()
    monkeypatch.delitem(sys.modules, "flashinfer")
    (tmp_path / "flashinfer.py").write_text("import a_library_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(NoFlashInfer, match=r"does not load.*a_library_that_is_not_there"):
        load_flashinfer()


# ---------------------------------------------------------------- devices


def test_a_torch_without_cuda_says_so_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert cuda_devices() == ()
    open_device(torch.device("cpu"))
    with pytest.raises(SpecError, match=r"'cuda': this torch .* was built without CUDA; install a torch"):
        open_device(torch.device("cuda"))


def test_a_machine_without_a_device_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SpecError, match="sees no CUDA device; check the driver"):
        open_device(torch.device("cuda:1"))


def test_devices_are_described_and_opened_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    monkeypatch.setattr(cuda_device, "why_no_cuda", lambda: "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", opened.append)
    properties = SimpleNamespace(name="Some GPU", total_memory=80 << 30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    assert cuda_devices()[1].describe() == "cuda:1 Some GPU, 80 GiB, capability 9.0"
    open_device(torch.device("cuda"))
    open_device(torch.device("cuda:1"))
    assert opened == [0, 1]
    with pytest.raises(SpecError, match="'cuda:2': only 2 devices are visible"):
        open_device(torch.device("cuda:2"))
    with pytest.raises(SpecError, match="runs on 'cpu' and 'cuda'"):
        open_device(torch.device("meta"))
