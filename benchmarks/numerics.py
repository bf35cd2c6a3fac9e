"""What batch-invariant numerics cost: the built-in model's steps, invariant against fast, in float32.

The two engines alternate step by step on one thread; medians and their ratio.
Knows: engines and step plans. Does not know: workers, requests.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: its pools size themselves at import

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.provenance import save
from diptych.adapters.native import NativeOptions, build_native_engine
from diptych.adapters.protocol import EngineAdapter
from diptych.builtin import builtin_model_dir
from diptych.domain.ids import RequestId
from diptych.domain.kv import blocks_for
from diptych.domain.request import SamplingParams
from diptych.domain.step import NewSequence, Slice, StepPlan

BLOCK_TOKENS = 16
BLOCKS = 4096
REPEATS = 21
MODES = ("invariant", "fast")
DECODES = [(batch, context) for context in (256, 1024) for batch in (1, 8, 32)]
PREFILL_TOKENS = 512
SAMPLING = SamplingParams(max_tokens=4096, seed=0, temperature=0.0)


async def main(console: Console) -> None:
    """Measure, print a table, write the result file."""
    engines = {mode: _engine(mode) for mode in MODES}
    rows = [
        _row(f"decode, batch {batch}, context {context:,}", engines, lambda b=batch, c=context: _decode(b, c))
        for batch, context in DECODES
    ]
    rows.append(_row(f"prefill of {PREFILL_TOKENS}", engines, _prefill))
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


def _decode(batch: int, context: int) -> StepPlan:
    """One token for each of ``batch`` sequences; what stands in the KV memory does not matter for time."""
    blocks = blocks_for(context, BLOCK_TOKENS)
    return _plan(
        [_slice(index, context - 1, 1, range(index * blocks, (index + 1) * blocks)) for index in range(batch)]
    )


def _prefill() -> StepPlan:
    return _plan([_slice(0, 0, PREFILL_TOKENS, range(blocks_for(PREFILL_TOKENS, BLOCK_TOKENS)))])


def _slice(index: int, start: int, count: int, blocks: Sequence[int]) -> Slice:
    return Slice(
        request_id=RequestId(f"r{index}"),
        token_ids=tuple((7 * position + index) % 1000 for position in range(start, start + count)),
        start=start,
        block_table=tuple(blocks),
        sample=True,
    )


def _plan(slices: list[Slice]) -> StepPlan:
    """Sequences are new and ended in the same step, so that steps do not depend on each other."""
    names = tuple(piece.request_id for piece in slices)
    new = tuple(
        NewSequence(
            request_id=piece.request_id,
            token_ids=(0,) * piece.start + tuple(piece.token_ids),
            prompt_tokens=piece.start + len(piece.token_ids),
            sampling=SAMPLING,
        )
        for piece in slices
    )
    return StepPlan(step=0, slices=tuple(slices), new=new, ended=names)


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("step", "invariant ms", "fast ms", "ratio")
    for row in rows:
        invariant_ms, fast_ms = row["invariant_p50_s"] * 1e3, row["fast_p50_s"] * 1e3
        table.add_row(row["step"], f"{invariant_ms:.1f}", f"{fast_ms:.1f}", f"{row['ratio']:.2f}")
    return table
