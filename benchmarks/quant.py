"""What weights in eight and four bits cost in quality, on the built-in model, and save in time.

Time is that of all linear maps of a Qwen3-0.6B shape, one pass for a step of some rows; the formats alternate
pass by pass. Quality: see `benchmarks.quality`.

Knows: formats, what is compared. Does not know: how quality is measured.
"""

from __future__ import annotations

import time
from functools import partial
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.contender import SHAPE
from benchmarks.heldout import held_out
from benchmarks.machine import Machine
from benchmarks.provenance import save
from benchmarks.quality import Judge, Pair, Rounding, agreement, answers
from diptych.domain.cluster import WeightFormat
from diptych.kernels.native.kernels import NativeKernels
from diptych.kernels.native.load import NotNative, library
from diptych.kernels.quantised import plain, rounded
from diptych.kernels.seam import PackedLinear
from diptych.models.packing import Packing
from diptych.models.resolve import read_model_shape

THREADS = 2
FORMATS: tuple[WeightFormat, ...] = ("same", "int8", "int4")
ROWS = (1, 4, 16, 32, 256)
REPEATS = 9
"""The first pass of each is not counted."""

REFERENCE = Pair("float32", "same", "same")
PAIRS = (
    Pair("float32", "int8", "int8"),
    Pair("bfloat16", "same", "same"),
    Pair("bfloat16", "same", "int8"),
    Pair("bfloat16", "int8", "int8"),
    Pair("bfloat16", "same", "int4"),
    Pair("bfloat16", "int4", "int4"),
)


async def main(console: Console) -> None:
    """Measure, print tables, write the result file."""
    torch.set_num_threads(THREADS)
    found: dict[str, Any] = {"threads": THREADS, "repeats": REPEATS}
    found["quality"], found["roundings"] = _quality()
    console.print(_quality_table("format", found["quality"]), _quality_table("rounding", found["roundings"]))
    found["answers"] = _answers()
    console.print(_answer_table(found["answers"]))
    try:
        kernels = NativeKernels(library(), THREADS)
    except NotNative as why:
        console.print(f"times left out: {why}")
    else:
        torch.set_num_threads(1)
        found |= _times(kernels)
        console.print(_time_table(found))
    console.print(f"written to {save('quant', found)}")


def _quality() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    judge = Judge(held_out())
    formats = [
        {"name": f"{dtype}, {weights}", **judge.kernels(dtype, weights)}
        for dtype in ("float32", "bfloat16")
        for weights in FORMATS
    ]
    return formats, [{"name": name, **judge.tried(*how)} for name, how in ROUNDINGS.items()]


def _answers() -> list[dict[str, Any]]:
    text = held_out()
    expected = answers(REFERENCE, text)
    return [
        {"name": f"{pair.dtype}, {pair.prefill} prefills, {pair.decode} decodes"}
        | agreement(expected, answers(pair, text))
        for pair in PAIRS
    ]


# ---------------------------------------------------------------- ways to round that were not taken, and were


def _as_format(weights: WeightFormat, weight_ND: Tensor) -> Tensor:
    return plain(rounded(weight_ND, weights), torch.float32)


def _int8_groups(inputs: int, weight_ND: Tensor) -> Tensor:
    return _by_group(inputs, weight_ND, partial(_as_format, "int8"))


def _int4_plain(inputs: int, weight_ND: Tensor) -> Tensor:
    """Levels −7 … 7, the scale as it falls."""

    def symmetric(groups: Tensor) -> Tensor:
        scales = groups.abs().amax(1, keepdim=True).clamp_min(1e-30) / 7
        return (groups / scales).round() * scales

    return _by_group(inputs, weight_ND, symmetric)


def _int4_offset(inputs: int, weight_ND: Tensor) -> Tensor:
    """Sixteen levels from the least to the largest value."""

    def shifted(groups: Tensor) -> Tensor:
        least, most = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
        scales = ((most - least) / 15).clamp_min(1e-30)
        return ((groups - least) / scales).round() * scales + least

    return _by_group(inputs, weight_ND, shifted)


def _by_group(inputs: int, weight_ND: Tensor, rounding: Rounding) -> Tensor:
    outputs, width_in = weight_ND.shape
    padded_ND = torch.nn.functional.pad(weight_ND, (0, -width_in % inputs))
    return rounding(padded_ND.reshape(-1, inputs)).view(outputs, -1)[:, :width_in]


EXACT, INT8, INT4 = (partial(_as_format, weights) for weights in FORMATS)
ROUNDINGS: dict[str, tuple[Rounding, Rounding]] = {
    "int8 by row": (INT8, EXACT),
    "int8 by 128": (partial(_int8_groups, 128), EXACT),
    "int4 by 32 (taken)": (INT4, EXACT),
    "int4 by 32, -7 to 7": (partial(_int4_plain, 32), EXACT),
    "int4 by 64, -7 to 7": (partial(_int4_plain, 64), EXACT),
    "int4 by 32, with offset": (partial(_int4_offset, 32), EXACT),
    "int4 by 64, with offset": (partial(_int4_offset, 64), EXACT),
    "int4 by 32, head int8 (taken)": (INT4, INT8),
    "int4 by 32, head int4": (INT4, INT4),
}
"""Of the layers and of the head."""

# ---------------------------------------------------------------- time


def _times(kernels: NativeKernels) -> dict[str, Any]:
    machine = Machine(THREADS)
    machine.look()
    maps = _pack(kernels)
    weight_bytes = {weights: sum(it.weight.numel() for it in packed) for weights, packed in maps.items()}
    rows = [_row(kernels, maps, rows) for rows in ROWS]
    machine.look()
    return {"stream_bytes_per_s": median(machine.stream), "weight_bytes": weight_bytes, "times": rows}


def _pack(kernels: NativeKernels) -> dict[WeightFormat, list[PackedLinear]]:
    """All maps of the shape, random: time does not depend on values."""
    shape = read_model_shape(SHAPE)
    sizes = (
        (shape.query_width + 2 * shape.kv_width, shape.hidden),
        (shape.hidden, shape.query_width),
        (2 * shape.intermediate, shape.hidden),
        (shape.hidden, shape.intermediate),
    )
    maps: dict[WeightFormat, list[PackedLinear]] = {weights: [] for weights in FORMATS}
    for _ in range(shape.layers):
        for outputs, width_in in sizes:
            weight_ND = torch.randn(outputs, width_in).bfloat16()
            for weights, packed in maps.items():
                packed.append(Packing(kernels, weights).linear(weight_ND))
    weight_VD = torch.randn(shape.vocab, shape.hidden).bfloat16()
    for weights, packed in maps.items():
        packed.append(Packing(kernels, weights).head(weight_VD))
    return maps


def _row(kernels: NativeKernels, maps: dict[WeightFormat, list[PackedLinear]], rows: int) -> dict[str, Any]:
    """One pass of each format in turn; a prompt needs the head for its last row only."""
    seconds: dict[WeightFormat, list[float]] = {weights: [] for weights in maps}
    inputs = {it.width_in: torch.randn(rows, it.width_in).bfloat16() for it in maps["same"]}
    for _ in range(REPEATS):
        for weights, packed in maps.items():
            *layers, head = packed
            start_s = time.perf_counter()
            for it in layers:
                kernels.linear(inputs[it.width_in], it)
            kernels.linear(inputs[head.width_in][: rows if rows <= 32 else 1], head)
            seconds[weights].append(time.perf_counter() - start_s)
    return {"rows": rows, "p50_s": {weights: median(values[1:]) for weights, values in seconds.items()}}


# ---------------------------------------------------------------- tables


def _quality_table(what: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(what, "perplexity", "divergence, nats", "same likeliest token")
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['perplexity']:.4f}",
            f"{row['divergence_nats']:.5f}",
            f"{row['same_likeliest']:.2%}",
        )
    return table


def _answer_table(rows: list[dict[str, Any]]) -> Table:
    table = Table("answers", "whole alike", "tokens before any difference", "first difference at")
    for row in rows:
        at = row["mean_first_difference"]
        table.add_row(
            row["name"],
            f"{row['whole_answers_alike']:.1%}",
            f"{row['tokens_before_any_difference']:.1%}",
            "" if at is None else f"{at:.1f} of {row['mean_length']:.1f}",
        )
    return table


def _time_table(found: dict[str, Any]) -> Table:
    table = Table("rows", *(f"{weights} ms (GB/s)" for weights in FORMATS), "int8 gains", "int4 gains")
    for row in found["times"]:
        seconds = row["p50_s"]
        rates = {weights: found["weight_bytes"][weights] / seconds[weights] / 1e9 for weights in FORMATS}
        table.add_row(
            str(row["rows"]),
            *(f"{1e3 * seconds[weights]:.1f} ({rates[weights]:.1f})" for weights in FORMATS),
            *(f"{seconds['same'] / seconds[weights]:.2f}" for weights in FORMATS[1:]),
        )
    return table
