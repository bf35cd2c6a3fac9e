"""Do `diptych bench` and an independent load generator see the same server?

To an engine with fixed step times they send the same trace in turn. To the built-in model they send at the
same
time, two traces that they swap each round: its step times move with whatever else the machine does, and so it
moves under both alike. The independent one is `benchmarks/independent.py` (threads and blocking sockets).
Knows: how to start both servers and both clients. Does not know: how either client works.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.provenance import save
from benchmarks.served import SERVE, serve
from diptych.builtin import builtin_model_dir

ROUNDS = 10
"""An even number, so that each client is first, or has a trace, as often as the other."""
REQUESTS = 30
"""Of one client in one round, about 15 s: what others do on the machine meanwhile hits both."""
RATE_RPS = 2.0
INPUT_TOKENS, OUTPUT_TOKENS = 300, 40
Client = Callable[[str, Path], list[dict[str, Any]]]
"""From URL and trace to figures of each request."""
METRICS = ("ttft_s", "tpot_s", "e2e_s")
REPOSITORY = Path(__file__).resolve().parents[1]
TOY_HEAD = REPOSITORY / "tests" / "support" / "live_toy_head.py"
SERVERS = {
    "fixed step times": ((sys.executable, str(TOY_HEAD), str(builtin_model_dir())), "in turn"),
    "built-in model": ((*SERVE, "--max-model-tokens", "1024"), "at the same time"),
}
"""What is asked, and how the clients share it."""


async def main(console: Console) -> None:
    """Measure, print a table, write the result file."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        traces = [Path(folder) / f"trace-{seed}.jsonl" for seed in range(2)]
        for seed, trace in enumerate(traces):
            trace.write_text(_trace(seed))
        for name in SERVERS:
            rows += await asyncio.to_thread(_rows, name, traces, console)
    console.print(_table(rows))
    console.print(f"written to {save('clients', {'requests_each': ROUNDS * REQUESTS, 'rows': rows})}")


def _trace(seed: int) -> str:
    """Poisson arrivals; lengths vary by half."""
    chooser, t_s, lines = random.Random(seed), 0.0, list[str]()
    for _ in range(REQUESTS):
        lengths = {
            "input_length": round(INPUT_TOKENS * chooser.uniform(0.5, 1.5)),
            "output_length": round(OUTPUT_TOKENS * chooser.uniform(0.5, 1.5)),
        }
        lines.append(json.dumps({"timestamp": round(t_s * 1000), **lengths, "hash_ids": []}))
        t_s += chooser.expovariate(RATE_RPS)
    return "\n".join(lines) + "\n"


def _rows(name: str, traces: list[Path], console: Console) -> list[dict[str, Any]]:
    command, way = SERVERS[name]
    ways = {"in turn": _in_turn, "at the same time": _together}
    rounds: dict[str, list[list[dict[str, Any]]]] = {client: [] for client in CLIENTS}
    with serve(command=command) as served:
        for number in range(ROUNDS):
            console.print(f"{name}: round {number + 1} of {ROUNDS}")
            found = ways[way](served.url, traces, number)
            for client in CLIENTS:
                rounds[client].append(found[client])
    return [_row(f"{name}, {way}", metric, rounds) for metric in METRICS]


def _in_turn(url: str, traces: list[Path], number: int) -> dict[str, list[dict[str, Any]]]:
    order = list(CLIENTS)[:: 1 if number % 2 else -1]
    return {client: CLIENTS[client](url, traces[0]) for client in order}


def _together(url: str, traces: list[Path], number: int) -> dict[str, list[dict[str, Any]]]:
    mine = traces[:: 1 if number % 2 else -1]
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(run, url, trace) for run, trace in zip(CLIENTS.values(), mine, strict=True)]
        return {client: one.result() for client, one in zip(CLIENTS, running, strict=True)}


def _row(name: str, metric: str, rounds: dict[str, list[list[dict[str, Any]]]]) -> dict[str, Any]:
    """Medians over all requests, and the difference round by round."""
    values = {client: [[one[metric] for one in found] for found in all_] for client, all_ in rounds.items()}
    pooled = {client: median(chain.from_iterable(found)) for client, found in values.items()}
    pairs = zip(values["diptych_bench"], values["independent"], strict=True)
    ratios = sorted(median(ours) / median(theirs) - 1 for ours, theirs in pairs)
    return {
        "server": name,
        "metric": metric,
        **{f"{client}_p50": value for client, value in pooled.items()},
        "difference": pooled["diptych_bench"] / pooled["independent"] - 1,
        "difference_by_round": ratios,
        "difference_of_rounds_p50": median(ratios),
    }


def _bench(url: str, trace: Path) -> list[dict[str, Any]]:
    """Requests of one run of the command."""
    folder = trace.parent / "bench"
    command = ["-m", "diptych", "bench", url, "--workload", str(trace), "--json", "--output", str(folder)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        raise RuntimeError(f"diptych bench failed: {done.stderr}")
    return [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]


def _independent(url: str, trace: Path) -> list[dict[str, Any]]:
    out = trace.parent / "independent.json"
    command = [sys.executable, "-m", "benchmarks.independent", url, str(trace), str(out)]
    subprocess.run(command, check=True, cwd=REPOSITORY)
    return json.loads(out.read_text())["requests"]


CLIENTS: dict[str, Client] = {"diptych_bench": _bench, "independent": _independent}


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("server", "median of", "diptych bench ms", "independent ms", "difference", "by round")
    for row in rows:
        low, *_, high = row["difference_by_round"]
        table.add_row(
            row["server"],
            row["metric"],
            f"{row['diptych_bench_p50'] * 1e3:.2f}",
            f"{row['independent_p50'] * 1e3:.2f}",
            f"{row['difference']:+.1%}",
            f"{row['difference_of_rounds_p50']:+.1%} ({low:+.1%} … {high:+.1%})",
        )
    return table
