"""What batch-invariant numerics cost: the built-in model's steps, invariant against fast, in float32.

The two engines alternate step by step on one thread; medians and their ratio.
Knows: engines and step plans. Does not know: workers, requests.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: its pools size themselves at import

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.provenance import save
from benchmarks.steps import BLOCK_TOKENS, decode_step, prefill_step
from diptych.adapters.native import NativeOptions, build_native_engine
from diptych.adapters.protocol import EngineAdapter
from diptych.builtin import builtin_model_dir
from diptych.domain.step import StepPlan

BLOCKS = 4096
REPEATS = 21
MODES = ("invariant", "fast")
DECODES = [(batch, context) for context in (256, 1024) for batch in (1, 8, 32)]
PREFILL_TOKENS = 512


async def main(console: Console) -> None:
    """Measure, print a table, write the result file."""
    engines = {mode: _engine(mode) for mode in MODES}
    rows = [
        _row(
            f"decode, batch {batch}, context {context:,}",
            engines,
            lambda b=batch, c=context: decode_step(b, c),
        )
        for batch, context in DECODES
    ]
    rows.append(_row(f"prefill of {PREFILL_TOKENS}", engines, lambda: prefill_step(PREFILL_TOKENS)))
    console.print(_table(rows))
    console.print(f"written to {save('numerics', {'threads': 1, 'repeats': REPEATS, 'rows': rows})}")


def _engine(numerics: Any) -> EngineAdapter:
    options = NativeOptions(dtype="float32", numerics=numerics, block_tokens=BLOCK_TOKENS, threads=1)
    engine = build_native_engine(builtin_model_dir(), options, total_blocks=BLOCKS)
    engine.warm_up()
    return engine


def _row(name: str, engines: dict[str, EngineAdapter], plan: Callable[[], StepPlan]) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {mode: [] for mode in engines}
    for _ in range(REPEATS):
        for mode, engine in engines.items():
            seconds[mode].append(_timed(engine, plan()))
    medians = {f"{mode}_p50_s": median(values[1:]) for mode, values in seconds.items()}
    return {"step": name, **medians, "ratio": medians["invariant_p50_s"] / medians["fast_p50_s"]}


def _timed(engine: EngineAdapter, plan: StepPlan) -> float:
    start_s = time.perf_counter()
    engine.execute(plan)
    return time.perf_counter() - start_s


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("step", "invariant ms", "fast ms", "ratio")
    for row in rows:
        invariant_ms, fast_ms = row["invariant_p50_s"] * 1e3, row["fast_p50_s"] * 1e3
        table.add_row(row["step"], f"{invariant_ms:.1f}", f"{fast_ms:.1f}", f"{row['ratio']:.2f}")
    return table
