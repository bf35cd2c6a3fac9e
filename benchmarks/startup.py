"""What a start takes until the first token, what a restart takes, and how much memory the workers need.

One shape, written as a checkpoint of random weights, so that reading files is part of it (from the page
cache). Cases alternate: one worker, two, and two that each pack weights of their own.
Knows: clusters in this process, /proc of their workers. Does not know: requests beyond the first.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from benchmarks.provenance import save
from benchmarks.watch import until
from diptych.domain.cluster import ClusterSpec, KVSpec, LimitsSpec, ModelSpec, PoolSpec
from diptych.domain.worker import Role
from diptych.models.decoder import outer_tensors
from diptych.models.dummy import DummyWeights
from diptych.models.registry import FAMILIES
from diptych.models.resolve import read_model_shape
from diptych.runtime.cluster import Cluster
from diptych.runtime.topology import WorkerPlace
from diptych.runtime.weights import WeightsFiles

SHAPE_DIR = Path(__file__).parent / "shapes" / "qwen3-0.6b"
ROUNDS = 4
"""The first one is not counted: it touches memory that the machine has never given out."""

ONE = (PoolSpec(name="mixed", role=Role.MIXED, workers=1),)
TWO = (
    PoolSpec(name="prefill", role=Role.PREFILL, workers=1),
    PoolSpec(name="decode", role=Role.DECODE, workers=1),
)
CASES = {
    "1 worker": (ONE, WeightsFiles),
    "2 workers, weights shared": (TWO, WeightsFiles),
    "2 workers, weights apart": (TWO, lambda _: WeightsFiles({})),
}
"""Pools, and where their weights go."""


async def main(console: Console) -> None:
    """Measure, print a table, write the result file."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CASES}
    with _checkpoint() as model_dir:
        for number in range(ROUNDS):
            for name, (pools, weights) in CASES.items():
                with (
                    console.status(f"round {number + 1} of {ROUNDS}: {name}"),
                    mock.patch("diptych.runtime.cluster.WeightsFiles", weights),
                ):
                    found[name].append(await _start(model_dir, pools))
    rows = [{"case": name, **_medians(runs[1:])} for name, runs in found.items()]
    console.print(_table(rows))
    console.print(f"written to {save('startup', {'rounds': ROUNDS - 1, 'rows': rows})}")


@contextmanager
def _checkpoint() -> Iterator[Path]:
    """The shape with random weights in a file."""
    with tempfile.TemporaryDirectory() as folder:
        model_dir = Path(shutil.copytree(SHAPE_DIR, Path(folder) / SHAPE_DIR.name))
        shape = read_model_shape(model_dir)
        sizes = outer_tensors(shape)
        for layer in range(shape.layers):
            sizes |= FAMILIES[shape.architecture].layer_tensors(shape, layer)
        source = DummyWeights(0, torch.bfloat16, torch.device("cpu"))
        save_file(
            {name: source.take(name, size) for name, size in sizes.items()}, model_dir / "model.safetensors"
        )
        yield model_dir


async def _start(model_dir: Path, pools: tuple[PoolSpec, ...]) -> dict[str, Any]:
    spec = ClusterSpec(
        model=ModelSpec(path=str(model_dir), max_model_tokens=512),
        kv=KVSpec(memory_bytes=128 << 20),
        pools=pools,
        limits=LimitsSpec(restart_backoff_s=0.05),
    )
    async with Cluster(spec) as cluster:
        topology = cluster.topology()
        pids = [place.pid for place in topology.workers if place.pid is not None]
        return {
            "first_token_s": sum(topology.start_s.values()),
            "start_s": topology.start_s,
            "worker_start_s": _slowest(topology.workers).start_s,
            "workers_pss_bytes": sum(_rollup(pid)["Pss"] for pid in pids),
            "workers_own_bytes": sum(_rollup(pid)["Pss_Anon"] for pid in pids),
            **await _restart(cluster),
        }


async def _restart(cluster: Cluster) -> dict[str, Any]:
    """Seconds from the death of the last worker until it is ready again."""
    victim = cluster.topology().workers[-1]
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    killed_s = time.monotonic()

    async def is_back() -> bool:
        now = cluster.topology().workers[-1]
        return now.up and now.incarnation > victim.incarnation

    await until(is_back, "a restart")
    restart_s = time.monotonic() - killed_s
    return {"restart_s": restart_s, "worker_restart_s": cluster.topology().workers[-1].start_s}


def _slowest(places: tuple[WorkerPlace, ...]) -> WorkerPlace:
    return max(places, key=lambda place: sum(place.start_s.values()))


def _rollup(pid: int) -> dict[str, int]:
    """What a process holds, in bytes; in ``Pss`` a page of several processes counts in parts."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
    return {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines)}


def _medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: (
            {stage: median(run[name][stage] for run in runs) for stage in value}
            if isinstance(value, dict)
            else median(run[name] for run in runs)
        )
        for name, value in runs[0].items()
    }


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("", "memory MiB", "first token s", "weights s", "restart s", "weights s, again")
    for row in rows:
        table.add_row(
            row["case"],
            f"{row['workers_pss_bytes'] / 2**20:,.0f}",
            f"{row['first_token_s']:.1f}",
            f"{row['worker_start_s']['weights']:.2f}",
            f"{row['restart_s']:.1f}",
            f"{row['worker_restart_s']['weights']:.2f}",
        )
    return table
