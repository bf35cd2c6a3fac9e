"""Does the handoff inside a memory domain depend on the prompt?

For each prompt length: seconds from prefill end to "decode may start", bytes lent and bytes copied, and
beside it a memcpy of the same KV bytes in the same run: what a handoff that copies would pay at least.
Knows: one prefill and one decode worker, the built-in model and a real shape with random weights. Does
not know: other transports.
"""

from __future__ import annotations

import mmap
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.load import Run, random_request, run
from benchmarks.provenance import save
from diptych.domain.cluster import ClusterSpec, KVSpec, ModelSpec
from diptych.runtime.cluster import Cluster

PROMPT_TOKENS = (256, 1024, 2048, 2041)
"""The last one ends in a partly filled block, which is copied."""
OUTPUT_TOKENS = 4
COPIES = 15
"""Of the same bytes, for comparison."""
SHAPE_DIR = Path(__file__).parent / "shapes" / "qwen3-0.6b"
CASES = {
    "built-in": (ClusterSpec(), 41),
    "Qwen3-0.6B shape": (
        ClusterSpec(
            model=ModelSpec(path=str(SHAPE_DIR), load_format="dummy", max_model_tokens=4096),
            kv=KVSpec(memory_bytes=2 << 30),
        ),
        7,
    ),
}
"""Cluster and rounds."""


async def main(console: Console) -> None:
    """Measure, print a table, write the result file."""
    rows: list[dict[str, Any]] = []
    for name, (spec, rounds) in CASES.items():
        with console.status(f"{name}: {rounds} rounds of {len(PROMPT_TOKENS)} prompts"):
            runs = await _run(spec, rounds)
        rows += [{"model": name, "rounds": rounds, **_row(length, runs[length])} for length in PROMPT_TOKENS]
    console.print(_table(rows))
    console.print(f"written to {save('handoff', {'rows': rows})}")


async def _run(spec: ClusterSpec, rounds: int) -> dict[int, list[Run]]:
    runs: dict[int, list[Run]] = {length: [] for length in PROMPT_TOKENS}
    async with Cluster(spec) as cluster:
        for round_number in range(rounds):
            for length in PROMPT_TOKENS:  # lengths alternate, so that drift of the machine hits all alike
                request = random_request(
                    f"handoff-{length}-{round_number}",
                    prompt_tokens=length,
                    output_tokens=OUTPUT_TOKENS,
                    vocabulary=cluster.model_shape.vocab,
                    block_tokens=spec.kv.block_tokens,
                    seed=round_number,
                )
                runs[length].append(await run(cluster.frontend, request))
    return runs


def _row(prompt_tokens: int, runs: list[Run]) -> dict[str, Any]:
    handoffs = [result.report.handoff for result in runs if result.report is not None]
    kv_bytes = handoffs[0].bytes_lent + handoffs[0].bytes_copied
    return {
        "prompt_tokens": prompt_tokens,
        "kind": sorted({handoff.kind.value for handoff in handoffs}),
        "kv_bytes": kv_bytes,
        "bytes_copied_max": max(handoff.bytes_copied for handoff in handoffs),
        "handoff_p50_s": median(handoff.handoff_s for handoff in handoffs),
        "handoff_max_s": max(handoff.handoff_s for handoff in handoffs),
        "memcpy_p50_s": _memcpy_s(kv_bytes),
    }


def _memcpy_s(size_bytes: int) -> float:
    """Median seconds of one copy of ``size_bytes`` between two mapped, touched buffers."""
    with mmap.mmap(-1, size_bytes) as source, mmap.mmap(-1, size_bytes) as target:
        source[:] = b"\x01" * size_bytes
        target[:] = b"\x02" * size_bytes
        source_view, target_view = memoryview(source), memoryview(target)
        seconds = [_timed_copy(source_view, target_view) for _ in range(COPIES)]
        source_view.release()
        target_view.release()
    return median(seconds)


def _timed_copy(source: memoryview, target: memoryview) -> float:
    start_s = time.perf_counter()
    target[:] = source
    return time.perf_counter() - start_s


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("model", "prompt", "KV MiB", "copied KiB", "handoff p50 ms", "max ms", "memcpy p50 ms")
    for row in rows:
        table.add_row(
            row["model"],
            f"{row['prompt_tokens']:,}",
            f"{row['kv_bytes'] / 2**20:.1f}",
            f"{row['bytes_copied_max'] / 2**10:.1f}",
            f"{row['handoff_p50_s'] * 1e3:.3f}",
            f"{row['handoff_max_s'] * 1e3:.3f}",
            f"{row['memcpy_p50_s'] * 1e3:.3f}",
        )
    return table
