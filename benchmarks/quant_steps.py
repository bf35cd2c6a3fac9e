"""What weights in eight and four bits save in whole decode steps of the built-in engine.

Each format has an engine in a process of its own; every round asks each for the same step, one after the
other, and measures how fast memory is read. The floor of a step is the time to read the weights in their
format and the KV once.

Knows: formats, steps, floors. Does not know: how a contender is started and asked (`engine`), what the
formats cost in quality (`quant`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.engine import Contender, in_turn
from benchmarks.floors import decode_bytes, weight_bytes
from benchmarks.machine import Machine
from benchmarks.provenance import save
from diptych.domain.cluster import WeightFormat
from diptych.kernels.native.load import NotNative, library

CONTENDERS: dict[WeightFormat, str] = {"same": "diptych", "int8": "diptych int8", "int4": "diptych int4"}
BATCHES, CONTEXT = (1, 8, 32), 512
ROUNDS = 9
"""The first one is not counted."""


async def main(console: Console, batches: Sequence[int] = BATCHES, rounds: int = ROUNDS) -> None:
    """Measure on all cores, print a table, write the result file."""
    try:
        library()
    except NotNative as why:
        console.print(f"left out, since only the native kernels hold rounded weights in fewer bytes: {why}")
        return
    threads = len(os.sched_getaffinity(0))
    result = await _measure(threads, [["decode", batch, CONTEXT] for batch in batches], rounds, console)
    console.print(_table(result))
    console.print(f"written to {save('quant-steps', result)}")


async def _measure(threads: int, steps: list[list[Any]], rounds: int, console: Console) -> dict[str, Any]:
    contenders: dict[str, Contender] = {
        weights: await Contender.begin(name, threads) for weights, name in CONTENDERS.items()
    }
    machine = Machine(threads)
    rows: list[dict[str, Any]] = [
        {"step": step, "p50_s": await in_turn(contenders, machine, step, rounds)}
        for step in track(steps, "decode steps", console=console, transient=True)
    ]
    for contender in contenders.values():
        await contender.end()
    stream = median(machine.stream)
    for row in rows:
        _, batch, context = row["step"]
        row["floor_s"] = {it: decode_bytes(batch, context, it) / stream for it in CONTENDERS}
    return {
        "threads": threads,
        "rounds": rounds,
        "stream_bytes_per_s": stream,
        "weight_bytes": {weights: weight_bytes(weights) for weights in CONTENDERS},
        "start": {weights: contender.start for weights, contender in contenders.items()},
        "rows": rows,
    }


def _table(result: dict[str, Any]) -> Table:
    title = (
        f"{result['threads']} threads: {result['stream_bytes_per_s'] / 1e9:.1f} GB/s; ms (times the floor)"
    )
    table = Table("decode", *CONTENDERS, "int8 gains", "int4 gains", title=title)
    for row in result["rows"]:
        _, batch, context = row["step"]
        seconds, floors = row["p50_s"], row["floor_s"]
        table.add_row(
            f"{batch} × {context:,}",
            *(f"{1e3 * seconds[it]:.1f} ({seconds[it] / floors[it]:.2f})" for it in CONTENDERS),
            *(f"{seconds['same'] / seconds[it]:.2f}" for it in ("int8", "int4")),
        )
    return table
