"""How fast the native kernels are: linear maps of few and many rows, paged attention, draws.

Knows: kernels and their operands. Does not know: models, workers. KV planes lie in ordinary pages, as those
of a cluster's shared memory do on most machines.
"""

from __future__ import annotations

import time
from collections.abc import Callable
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

FEW, MANY = (1, 8, 16), (256, 1024)
DECODES = ((1, 512), (1, 4096), (1, 16384), (8, 512), (32, 512), (8, 4096), (32, 4096))
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
    rows = _linear(kernels)
    machine.look()
    rows += _attention(kernels)
    rows += _draws(kernels)
    machine.look()
    stream, products = median(machine.stream), median(machine.products)
    rows += [
        _rate("memory read in order", stream, 1e9, "GB/s"),
        _rate(f"{machine.unit} products alone", products, 1e12, "TFLOP/s"),
    ]
    table = Table("operation", "p50 ms", "rate", "")
    for row in rows:
        table.add_row(
            row["operation"],
            f"{1e3 * row['p50_s']:.2f}" if row["p50_s"] else "",
            f"{row['rate'] / row['scale']:.2f}",
            row["unit"],
        )
    console.print(table)
    console.print(f"written to {save('kernels', {'threads': THREADS, 'repeats': REPEATS, 'rows': rows})}")


def _linear(kernels: NativeKernels) -> list[dict[str, Any]]:
    weights = [kernels.pack(torch.randn(OUTPUTS, WIDTH).bfloat16()) for _ in range(WEIGHTS)]
    found: list[dict[str, Any]] = []
    for rows in FEW + MANY:
        x_TD, turn = torch.randn(rows, WIDTH).bfloat16(), weights if rows in FEW else weights[:4]
        taken_s = _timed(lambda x=x_TD, turn=turn: [kernels.linear(x, it) for it in turn]) / len(turn)
        size, name = OUTPUTS * WIDTH, f"linear {WIDTH:,} to {OUTPUTS:,}, M = {rows:,}"
        found.append(
            _bytes(name, taken_s, 2 * size) if rows in FEW else _flops(name, taken_s, 2 * rows * size)
        )
    return found


def _attention(kernels: NativeKernels) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    token_bytes = 4 * SHAPE.kv_heads * SHAPE.head_dim
    for batch, context in DECODES:
        taken_s = _attend(kernels, [(context - 1, 1)] * batch)
        found.append(_bytes(f"decode {batch} of {context:,}", taken_s, batch * context * token_bytes))
    for rows in CHUNKS:
        flops = 4 * SHAPE.heads * SHAPE.head_dim * rows * (rows + 1) // 2
        found.append(_flops(f"prompt of {rows:,}", _attend(kernels, [(0, rows)]), flops))
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


def _attend(kernels: NativeKernels, sequences: list[tuple[int, int]]) -> float:
    """Seconds for (start, rows) of some sequences over scattered blocks."""
    needed = [-(-(start + rows) // SHAPE.block_tokens) for start, rows in sequences]
    order = iter(torch.randperm(sum(needed)).tolist())
    spans: list[Span] = []
    for (start, rows), blocks in zip(sequences, needed, strict=True):
        first = spans[-1].first_row + spans[-1].rows if spans else 0
        spans.append(Span(first, rows, start, tuple(next(order) for _ in range(blocks))))
    k_BKSE, v_BKSE = _plane(sum(needed)), _plane(sum(needed))
    q_THE = torch.randn(spans[-1].first_row + spans[-1].rows, SHAPE.heads, SHAPE.head_dim).bfloat16()
    plan = kernels.plan_attention(tuple(spans), SHAPE)
    return _timed(lambda: kernels.attention(q_THE, k_BKSE, v_BKSE, plan))


def _plane(blocks: int) -> Tensor:
    elements = blocks * SHAPE.kv_heads * SHAPE.block_tokens * SHAPE.head_dim
    flat = torch.randn(elements).bfloat16()
    return flat.view(blocks, SHAPE.kv_heads, SHAPE.block_tokens, SHAPE.head_dim)


def _timed(run: Callable[[], object]) -> float:
    run()
    taken_s: list[float] = []
    for _ in range(REPEATS):
        start_s = time.perf_counter()
        run()
        taken_s.append(time.perf_counter() - start_s)
    return median(taken_s)


def _rate(name: str, rate: float, scale: float, unit: str) -> dict[str, Any]:
    return {"operation": name, "p50_s": None, "rate": rate, "scale": scale, "unit": unit}


def _bytes(name: str, taken_s: float, size: int) -> dict[str, Any]:
    return {"operation": name, "p50_s": taken_s, "rate": size / taken_s, "scale": 1e9, "unit": "GB/s"}


def _flops(name: str, taken_s: float, flops: int) -> dict[str, Any]:
    return {"operation": name, "p50_s": taken_s, "rate": flops / taken_s, "scale": 1e12, "unit": "TFLOP/s"}
