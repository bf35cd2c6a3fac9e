"""Do `diptych bench` and an independent load generator see the same server?

The same trace, sent by either in turn, to an engine with fixed step times and to the built-in model. The
independent one is `benchmarks/independent.py` (threads and blocking sockets).
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
"""The two clients take turns at being first."""
REQUESTS = 30
"""Of one client in one round, about 10 s: what others do on the machine meanwhile hits both."""
RATE_RPS = 3.0
INPUT_TOKENS, OUTPUT_TOKENS = 300, 40
Client = Callable[[str, Path], list[dict[str, Any]]]
"""From URL and trace to figures of each request."""
METRICS = ("ttft_s", "tpot_s", "e2e_s")
REPOSITORY = Path(__file__).resolve().parents[1]
TOY_HEAD = REPOSITORY / "tests" / "support" / "live_toy_head.py"
SERVERS = {
    "fixed step times": (sys.executable, str(TOY_HEAD), str(builtin_model_dir())),
    "built-in model": (*SERVE, "--max-model-tokens", "1024"),
}


async def main(console: Console) -> None:
    """Measure, print a table, write the result file."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.jsonl"
        trace.write_text(_trace())
        for name, command in SERVERS.items():
            rows += await asyncio.to_thread(_rows, name, command, trace, console)
    console.print(_table(rows))
    console.print(f"written to {save('clients', {'requests_each': ROUNDS * REQUESTS, 'rows': rows})}")


def _trace() -> str:
    """Poisson arrivals; lengths vary by half."""
    chooser, t_s, lines = random.Random(1), 0.0, list[str]()
    for _ in range(REQUESTS):
        lengths = {
            "input_length": round(INPUT_TOKENS * chooser.uniform(0.5, 1.5)),
            "output_length": round(OUTPUT_TOKENS * chooser.uniform(0.5, 1.5)),
        }
        lines.append(json.dumps({"timestamp": round(t_s * 1000), **lengths, "hash_ids": []}))
        t_s += chooser.expovariate(RATE_RPS)
    return "\n".join(lines) + "\n"


def _rows(name: str, command: tuple[str, ...], trace: Path, console: Console) -> list[dict[str, Any]]:
    clients: dict[str, Client] = {"diptych_bench": _bench, "independent": _independent}
    rounds: dict[str, list[list[dict[str, Any]]]] = {client: [] for client in clients}
    with serve(command=command) as served:
        for number in range(ROUNDS):
            console.print(f"{name}: round {number + 1} of {ROUNDS}")
            for client in list(clients)[:: 1 if number % 2 else -1]:
                rounds[client].append(clients[client](served.url, trace))
    return [_row(name, metric, rounds) for metric in METRICS]


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
