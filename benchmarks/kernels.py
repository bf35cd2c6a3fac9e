"""How fast the native kernels are: linear maps of few and many rows, paged attention, draws.

What is bound by memory takes turns with reading memory in order, because that rate moves, too: the share is
of what was read just before.

Knows: kernels and their operands. Does not know: models, workers. KV planes lie in ordinary pages, as those
of a cluster's shared memory do on most machines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.machine import Machine
from benchmarks.provenance import save
from diptych.kernels import drawing
from diptych.kernels.native.kernels import NativeKernels
from diptych.kernels.native.load import NotNative, library
from diptych.kernels.seam import AttentionShape, DrawRule, Span

THREADS = 2
WIDTH, OUTPUTS, WEIGHTS = 1024, 6144, 24
"""Of one linear map, and how many in turn: 288 MiB, so that none stays in a cache."""
KV_BYTES, READ_BYTES = 256 << 20, 128 << 20
"""Of the layers of KV that decodes take in turn, at least, for the same reason; read in order for each thread
before."""

FEW, MANY = (1, 8, 16), (256, 1024)
DECODES = ((1, 512), (1, 4096), (1, 16384), (8, 512), (32, 512), (8, 4096), (32, 4096), (8, 16384))
CHUNKS = (512, 1024, 2048)
SHAPE = AttentionShape(16, 8, 128, 16)
ROWS, VOCABULARY = 32, 151_936
REPEATS = 9


async def main(console: Console) -> None:
    """Measure, print a table, write the result file."""
    torch.set_num_threads(1)
    try:
        kernels = NativeKernels(library(), THREADS)
    except NotNative as why:
        console.print(f"left out: {why}")
        return
    machine = Machine(THREADS)
    machine.look()
    rows = _linear(kernels, machine)
    machine.look()
    rows += _attention(kernels, machine)
    rows += _draws(kernels)
    machine.look()
    stream, products = median(machine.stream), median(machine.products)
    rows += [
        _rate("memory read in order", stream, 1e9, "GB/s"),
        _rate(f"{machine.unit} products alone", products, 1e12, "TFLOP/s"),
    ]
    table = Table("operation", "p50 ms", "rate", "", "share of memory's")
    for row in rows:
        table.add_row(
            row["operation"],
            f"{1e3 * row['p50_s']:.2f}" if row["p50_s"] else "",
            f"{row['rate'] / row['scale']:.2f}",
            row["unit"],
            f"{row['share']:.2f}" if "share" in row else "",
        )
    console.print(table)
    console.print(f"written to {save('kernels', {'threads': THREADS, 'repeats': REPEATS, 'rows': rows})}")


def _linear(kernels: NativeKernels, machine: Machine) -> list[dict[str, Any]]:
    weights = [kernels.pack(torch.randn(OUTPUTS, WIDTH).bfloat16()) for _ in range(WEIGHTS)]
    size, name = OUTPUTS * WIDTH, f"linear {WIDTH:,} to {OUTPUTS:,}, M = "
    found: list[dict[str, Any]] = []
    for rows in FEW:
        x_TD = torch.randn(rows, WIDTH).bfloat16()
        run = partial(_each, weights, partial(kernels.linear, x_TD))
        found.append(_beside(machine, f"{name}{rows:,}", run, 2 * size, WEIGHTS))
    for rows in MANY:
        x_TD = torch.randn(rows, WIDTH).bfloat16()
        taken_s = _timed(partial(_each, weights[:4], partial(kernels.linear, x_TD))) / 4
        found.append(_flops(f"{name}{rows:,}", taken_s, 2 * rows * size))
    return found


def _attention(kernels: NativeKernels, machine: Machine) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    token_bytes = 4 * SHAPE.kv_heads * SHAPE.head_dim
    for batch, context in DECODES:
        size = batch * context * token_bytes
        layers = max(1, KV_BYTES // size)
        run = _attending(kernels, [(context - 1, 1)] * batch, layers)
        found.append(_beside(machine, f"decode {batch} of {context:,}", run, size, layers))
    for rows in CHUNKS:
        flops = 4 * SHAPE.heads * SHAPE.head_dim * rows * (rows + 1) // 2
        found.append(_flops(f"prompt of {rows:,}", _timed(_attending(kernels, [(0, rows)], 1)), flops))
    return found


def _draws(kernels: NativeKernels) -> list[dict[str, Any]]:
    """A token of each of some rows, natively and with torch on one thread."""
    found: list[dict[str, Any]] = []
    logits_RV = torch.randn(ROWS, VOCABULARY).mul(3).bfloat16()
    for name, filters in (
        ("temperature", (0.0, 0, 1.0)),
        ("top-k, top-p", (0.0, 50, 0.95)),
        ("top-p", (0.0, 0, 0.95)),
    ):
        rules = [DrawRule(0.8, *filters, u=(i + 0.5) / ROWS) for i in range(ROWS)]
        for draw, how in ((kernels.draw, "native"), (drawing.draw, "torch")):
            taken_s = _timed(lambda draw=draw, rules=rules: draw(logits_RV, rules))
            found.append(
                _rate(f"{ROWS} draws, {name}, {how}", ROWS / taken_s, 1e3, "thousand/s") | {"p50_s": taken_s}
            )
    return found


def _attending(kernels: NativeKernels, sequences: list[tuple[int, int]], layers: int) -> Callable[[], object]:
    """Attention of (start, rows) of some sequences over scattered blocks, one layer of KV after the other."""
    needed = [-(-(start + rows) // SHAPE.block_tokens) for start, rows in sequences]
    order = iter(torch.randperm(sum(needed)).tolist())
    spans: list[Span] = []
    for (start, rows), blocks in zip(sequences, needed, strict=True):
        first = spans[-1].first_row + spans[-1].rows if spans else 0
        spans.append(Span(first, rows, start, tuple(next(order) for _ in range(blocks))))
    planes = [(_plane(sum(needed)), _plane(sum(needed))) for _ in range(layers)]
    q_THE = torch.randn(spans[-1].first_row + spans[-1].rows, SHAPE.heads, SHAPE.head_dim).bfloat16()
    plan = kernels.plan_attention(tuple(spans), SHAPE)
    return lambda: _each(planes, lambda kv: kernels.attention(q_THE, *kv, plan))


def _plane(blocks: int) -> Tensor:
    elements = blocks * SHAPE.kv_heads * SHAPE.block_tokens * SHAPE.head_dim
    flat = torch.randn(elements).bfloat16()
    return flat.view(blocks, SHAPE.kv_heads, SHAPE.block_tokens, SHAPE.head_dim)


def _each(items: Sequence[Any], run: Callable[[Any], object]) -> None:
    for item in items:
        run(item)


def _timed(run: Callable[[], object]) -> float:
    run()
    return median(_once(run) for _ in range(REPEATS))


def _once(run: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    run()
    return time.perf_counter() - start_s


def _beside(machine: Machine, name: str, run: Callable[[], object], size: int, count: int) -> dict[str, Any]:
    """What one of ``count`` takes, each of so many bytes, and its share of what memory gives just before."""
    run()
    taken_s: list[float] = []
    shares: list[float] = []
    for _ in range(REPEATS):
        stream = machine.read(READ_BYTES)
        taken_s.append(_once(run) / count)
        shares.append(size / taken_s[-1] / stream)
    return _bytes(name, median(taken_s), size) | {"share": median(shares)}


def _rate(name: str, rate: float, scale: float, unit: str) -> dict[str, Any]:
    return {"operation": name, "p50_s": None, "rate": rate, "scale": scale, "unit": unit}


def _bytes(name: str, taken_s: float, size: int) -> dict[str, Any]:
    return {"operation": name, "p50_s": taken_s, "rate": size / taken_s, "scale": 1e9, "unit": "GB/s"}


def _flops(name: str, taken_s: float, flops: int) -> dict[str, Any]:
    return {"operation": name, "p50_s": taken_s, "rate": flops / taken_s, "scale": 1e12, "unit": "TFLOP/s"}
