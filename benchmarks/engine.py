"""The built-in engine against others and against what the machine can do, on one shape.

Every round asks each contender for the same step, one after the other, and measures the machine: bytes read
in order, bfloat16 products. The floor of a decode step is the time to read its weights and KV once, or
to multiply operands that need no loading where that takes longer; that of a prefill is the latter.

Knows: steps, floors, processes of contenders. Does not know: engines.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.floors import decode_s, prefill_flops
from benchmarks.machine import Machine
from benchmarks.peers import present
from benchmarks.provenance import save

STEPS: list[list[Any]] = [
    *[["decode", batch, 512] for batch in (1, 8, 32)],
    *[["decode", batch, 4096] for batch in (1, 4)],
    *[["prefill", tokens] for tokens in (512, 1024, 2048, 8192)],
]
SHORT_STEPS = [step for step in STEPS if step[-1] <= 1024]
"""On one core, where all takes twice as long."""

SLOW_TOKENS = 2048
"""Prompts from here on are asked for less often. (Larger batches at 4,096 tokens would take more memory than
there is: every contender holds its own KV.)"""

ROUNDS, SLOW_ROUNDS = 5, 3
"""The first one is not counted."""
REST_S = 0.5
"""Between contenders: idle threads of the one before go on spinning for a while."""


async def main(console: Console) -> None:
    """Measure on all cores and on one, print tables, write the result file."""
    found: dict[str, Any] = {}
    for threads in sorted({1, len(os.sched_getaffinity(0))}, reverse=True):
        found[f"{threads} threads"] = result = await _measure(threads, console)
        console.print(_table(f"{threads} threads", result))
        path = save("engine", found)
        console.print(f"written to {path}")


OWN = ("diptych", "transformers") if present() else ("diptych", "diptych on torch", "transformers")
"""On our own Python. With peers beside them the memory does not hold all."""

PYTHONS = dict.fromkeys(OWN, sys.executable) | present()
"""Who takes part → the Python it runs on. Any other contender runs on ours."""


class ContenderEnded(Exception):
    """It has no more answers."""


class Contender:
    """A process that times steps."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.start: dict[str, Any] = {}

    @classmethod
    async def begin(cls, name: str, threads: int) -> Contender:
        """Start it, and wait until it is ready."""
        process = await asyncio.create_subprocess_exec(
            *("taskset", "-c", ",".join(str(core) for core in range(threads))),
            *(PYTHONS.get(name, sys.executable), "-m", "benchmarks.contender", name, str(threads)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )
        self = cls(process)
        self.start = await self._read()
        return self

    async def ask(self, step: list[Any]) -> float:
        """Seconds of one step."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(step).encode() + b"\n")
        await self._process.stdin.drain()
        return await self._read()

    async def end(self) -> None:
        """No more steps."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    async def _read(self) -> Any:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            if line.startswith((b"{", b"[")) or line[:1].isdigit():
                return json.loads(line)
        raise ContenderEnded(f"ended with status {await self._process.wait()}")


async def in_turn(
    contenders: dict[str, Contender], machine: Machine, step: list[Any], rounds: int
) -> dict[str, float]:
    """Median seconds of a step by contender. Each round looks at the machine, then asks one after the other;
    the first is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        machine.look()
        for name, contender in contenders.items():
            seconds[name].append(await contender.ask(step))
            await asyncio.sleep(REST_S)
    return {name: median(values[1:]) for name, values in seconds.items()}


async def _measure(threads: int, console: Console) -> dict[str, Any]:
    steps = STEPS if threads > 1 else SHORT_STEPS
    contenders: dict[str, Contender] = {}
    for name in PYTHONS:
        try:
            contenders[name] = await Contender.begin(name, threads)
        except ContenderEnded as why:
            console.print(f"{name} is left out: it {why}")
    machine = Machine(threads)
    rows: list[dict[str, Any]] = []
    for step in track(steps, f"{threads} threads", console=console, transient=True):
        slow = step[0] == "prefill" and step[1] >= SLOW_TOKENS
        rounds = SLOW_ROUNDS if slow else ROUNDS
        rows.append({"step": step, "p50_s": await in_turn(contenders, machine, step, rounds)})
    for contender in contenders.values():
        await contender.end()
    stream, products = median(machine.stream), median(machine.products)
    for row in rows:
        row["floor_s"] = _floor_s(row["step"], stream, products)
    return {
        "stream_bytes_per_s": stream,
        "unit": machine.unit,
        "product_flop_per_s": products,
        "start": {name: contender.start for name, contender in contenders.items()},
        "rows": rows,
    }


def _floor_s(step: list[Any], stream: float, products: float) -> float:
    kind, *sizes = step
    return decode_s(*sizes, stream, products) if kind == "decode" else prefill_flops(*sizes) / products


def _table(title: str, result: dict[str, Any]) -> Table:
    rates = f"{result['stream_bytes_per_s'] / 1e9:.1f} GB/s, {result['product_flop_per_s'] / 1e12:.2f} TF/s"
    table = Table("step", "floor", *result["start"], "diptych / floor", title=f"{title}: {rates}")
    for row in result["rows"]:
        kind, *sizes = row["step"]
        cells = [_cell(kind, sizes, seconds) for seconds in (row["floor_s"], *row["p50_s"].values())]
        words = " × ".join(f"{size:,}" for size in sizes)
        table.add_row(f"{kind} {words}", *cells, f"{row['p50_s']['diptych'] / row['floor_s']:.2f}")
    for name, start in result["start"].items():
        table.caption = f"{table.caption or ''}{name}: start {start['start_s']:.1f} s, "
        table.caption += f"{start['resident_bytes'] / 2**30:.2f} GiB. "
    return table


def _cell(kind: str, sizes: list[int], seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms" if kind == "decode" else f"{sizes[0] / seconds:,.0f} tok/s"
