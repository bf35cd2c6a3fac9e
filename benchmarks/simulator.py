"""How fast virtual time passes, and with what that grows: requests, output tokens, workers.

Each point is one run of its own; CPU seconds are those of the process. ``DIPTYCH_COMPILED=0`` measures the
sources.
Knows: specs with a measured profile, traces, memory of this process. Does not know: how a simulation works.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.provenance import RESULTS_DIR, save
from diptych import compiled
from diptych.domain.cluster import ClusterSpec, KVSpec, LimitsSpec, PoolSpec, SloSpec
from diptych.domain.fleet import DecodeFit, PrefillFit, ProfileSpec
from diptych.domain.worker import Role
from diptych.planning.simulate import Simulation
from diptych.planning.traces import open_workload
from diptych.workload.record import Arrival, Workload

TRACE = (
    Path(os.environ.get("DIPTYCH_DATA", "../shared/data")) / "traces/mooncake_fast25/conversation_trace.jsonl"
)
TRACE_RUNS = 5
REQUESTS = (1_000, 10_000, 100_000, 1_000_000)
OUTPUT_TOKENS = (16, 64, 256, 1024)
WORKERS = (2, 4, 8, 16, 32, 64)
LARGE_CHUNK_TOKENS = 8192
MEMORY_EVERY = 50_000
"""Requests between two looks at the memory of the long run."""

PROFILE = ProfileSpec(
    prefill=PrefillFit(fixed_s=0.01, per_token_s=5e-5, per_token2_s=2e-10),
    decode=(DecodeFit(fixed_s=0.02, per_context_token_s=2e-8, per_sequence_s=5e-5),),
    kv_tokens=3_000_000,
    kv_bytes_per_token=1000,
)
"""A worker about as fast as eight large accelerators with a 70B model."""


async def main(console: Console) -> None:
    """Measure, print tables, write the result file and a plot."""
    result: dict[str, Any] = {"control_plane": compiled.describe()}
    if TRACE.is_file():
        result["trace"] = _trace(console)
    else:
        console.print(f"{TRACE} is not there: the trace is left out (DIPTYCH_DATA names its folder)")
    result["workers"] = [_point(console, 20_000, 64, it) for it in WORKERS]
    result["output_tokens"] = [_point(console, 20_000, it, 8) for it in OUTPUT_TOKENS]
    result["requests"] = [_point(console, it, 64, 8) for it in REQUESTS]
    console.print(_table(result))
    path = save("simulator", result)
    _plot(result, RESULTS_DIR / f"{path.stem}.png")
    console.print(f"written to {path}")


def _trace(console: Console) -> list[dict[str, Any]]:
    """The whole trace on eight workers, mixed and split, with large chunks and small ones, alternating."""
    shapes = {
        "8 mixed": (8, 0, 0, LARGE_CHUNK_TOKENS),
        "8 mixed, chunks of 512": (8, 0, 0, 512),
        "4 prefill + 4 decode": (0, 4, 4, LARGE_CHUNK_TOKENS),
        "4 prefill + 4 decode, chunks of 512": (0, 4, 4, 512),
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in shapes}
    for _ in track(range(TRACE_RUNS), "trace", console=console, transient=True):
        for name, shape in shapes.items():
            runs[name].append(_timed(_spec(*shape), open_workload(str(TRACE))))
    return [{"cluster": name, **_best(found)} for name, found in runs.items()]


def _best(runs: list[dict[str, float]]) -> dict[str, Any]:
    by_wall = sorted(runs, key=lambda it: it["wall_s"])
    return by_wall[len(by_wall) // 2] | {"best_wall_s": by_wall[0]["wall_s"], "runs": len(runs)}


def _point(console: Console, requests: int, output_tokens: int, workers: int) -> dict[str, Any]:
    """Poisson arrivals that keep every worker at about the same load."""
    memory: list[tuple[int, int]] = []
    rate_rps = 0.35 * workers / (0.01 + 5e-5 * 1000 + output_tokens * 0.02 / 64)

    def arrivals() -> Iterator[Arrival]:
        text = (
            f"synthetic:poisson,rate={rate_rps},input=1000,output={output_tokens},requests={requests},seed=1"
        )
        for number, arrival in enumerate(open_workload(text)):
            if number % MEMORY_EVERY == 0:
                memory.append((number, _resident_bytes()))
            yield arrival

    with console.status(f"{requests:,} requests of {output_tokens} tokens on {workers} workers"):
        found = _timed(_spec(workers, 0, 0), Workload("poisson", arrivals))
    return {
        "requests": requests,
        "output_tokens": output_tokens,
        "workers": workers,
        **found,
        "resident_bytes": memory,
    }


def _timed(spec: ClusterSpec, workload: Workload) -> dict[str, float]:
    gc.collect()  # what the run before left is not this one's to clear away
    simulation = Simulation(spec, workload)
    before_s = time.process_time()
    result = simulation.run()
    cpu_s = time.process_time() - before_s
    if result.completed != result.requests:
        raise SystemExit(
            f"{result.requests - result.completed} of {result.requests} requests did not complete"
        )
    return {
        "completed": result.completed,
        "wall_s": result.wall_s,
        "requests_per_s": result.requests / result.wall_s,
        "cpu_s_per_request": cpu_s / result.requests,
        "output_tokens_per_s": result.output_tokens_per_s * result.makespan_s / result.wall_s,
        "events_per_request": result.events / result.requests,
    }


def _spec(mixed: int, prefill: int, decode: int, chunk_tokens: int = LARGE_CHUNK_TOKENS) -> ClusterSpec:
    counts = {Role.MIXED: mixed, Role.PREFILL: prefill, Role.DECODE: decode}
    pools = tuple(
        PoolSpec(
            name=role.value,
            role=role,
            workers=n,
            token_budget=chunk_tokens,
            max_running=256,
            profile=PROFILE,
        )
        for role, n in counts.items()
        if n
    )
    return ClusterSpec(
        pools=pools,
        kv=KVSpec(block_tokens=512),
        limits=LimitsSpec(prefill_backlog_tokens=8192),
        slo=SloSpec(ttft_s=2, tpot_s=0.05),
    )


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _table(result: dict[str, Any]) -> Table:
    table = Table("run", "requests", "requests/s", "µs CPU a request", "events a request", "MiB at the end")
    rows = [(it["cluster"], it) for it in result.get("trace", ())]
    rows += [
        (f"{it['workers']} workers, output {it['output_tokens']}", it)
        for key in ("workers", "output_tokens", "requests")
        for it in result[key]
    ]
    for name, it in rows:
        memory = it.get("resident_bytes") or ()
        table.add_row(
            name,
            f"{it['completed']:,}",
            f"{it['requests_per_s']:,.0f}",
            f"{1e6 * it['cpu_s_per_request']:.0f}",
            f"{it['events_per_request']:.1f}",
            f"{memory[-1][1] / 2**20:.0f}" if memory else "",
        )
    return table


def _plot(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 4, figsize=(16, 3.6), layout="constrained")
    labels = {"requests": "requests", "output_tokens": "output tokens a request", "workers": "workers"}
    for axis, (key, label) in zip(axes, labels.items(), strict=False):
        sizes = [it[key] for it in result[key]]
        costs = [1e6 * it["cpu_s_per_request"] for it in result[key]]
        axis.plot(sizes, costs, marker="o")
        axis.set(xlabel=label, ylabel="µs CPU a request", ylim=(0, 1.1 * max(costs)))
        axis.set_xscale("log")
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.minorticks_off()
    memory = [(n, size / 2**20) for n, size in result["requests"][-1]["resident_bytes"]]
    axes[3].plot([n for n, _ in memory], [size for _, size in memory])
    axes[3].set(
        xlabel="requests so far", ylabel="resident MiB", ylim=(0, 1.1 * max(size for _, size in memory))
    )
    figure.savefig(path, dpi=110)
