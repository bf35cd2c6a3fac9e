"""What a started cluster says about itself.

Knows: how a topology reads. Does not know: how it came to be.
"""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from diptych import __version__
from diptych.runtime.stages import in_words
from diptych.runtime.topology import Topology, WorkerPlace

GIB = 1 << 30
MIB = 1 << 20
KIB = 1 << 10


def banner(model_name: str, topology: Topology, url: str) -> RenderableType:
    """Model, memory, workers and addresses."""
    parts = (_facts(model_name, topology), Text(), _workers(topology), Text(), _addresses(url))
    return Panel(Group(*parts), title=f"diptych {__version__}", title_align="left", expand=False)


def _facts(model_name: str, topology: Topology) -> Table:
    table = _plain_table()
    table.add_row("model", Text(f"{model_name} ({topology.model_dir})"))
    table.add_row("engine", Text(_engine_words(topology)))
    devices = sum(worker.torch_device != "cpu" for worker in topology.workers)
    if devices < len(topology.workers):
        table.add_row(
            "memory",
            f"domain {topology.domain_id}: {size(topology.domain_bytes)} of {topology.kv_dtype} KV for "
            f"{topology.kv_tokens:,} tokens in blocks of {topology.block_tokens}{_pages_words(topology)}",
        )
        table.add_row("handoff", "borrow inside the domain: no copy but the last, partly filled block")
    if devices:
        kv = f"{topology.kv_dtype} KV in blocks of {topology.block_tokens} tokens"
        table.add_row("device memory", f"{kv}; a device's is its worker's alone: nothing is handed over")
    table.add_row("context", f"{topology.max_model_tokens:,} tokens")
    if topology.start_s:
        table.add_row("start", start_words(topology))
    return table


def _engine_words(topology: Topology) -> str:
    """What the engines say of themselves, in whole words; those of one device agree, since they are built
    alike."""
    described = {worker.torch_device: worker.engine for worker in reversed(topology.workers) if worker.engine}
    lines = [
        ", ".join(words for key, words in described[device].items() if key != "engine")
        for device in sorted(described)
    ]
    return ", ".join([topology.engine, *filter(None, ["; ".join(filter(None, lines))])])


def _pages_words(topology: Topology) -> str:
    share = topology.domain_huge_bytes / topology.domain_bytes
    return f", {share:.0%} on large pages" if share else ""


def start_words(topology: Topology) -> str:
    """How long it took until the first token came, and what the slowest worker did meanwhile."""
    slowest = max((worker.start_s for worker in topology.workers), key=lambda start_s: sum(start_s.values()))
    first_token_s = sum(topology.start_s.values())
    return f"first token after {first_token_s:.1f} s: {in_words(topology.start_s)} ({in_words(slowest)})"


def _workers(topology: Topology) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    rounded = any(worker.weights != "same" for worker in topology.workers)
    placed = any(worker.torch_device != "cpu" for worker in topology.workers)
    headings = ["worker", "role", "pid", "cores", "threads", "KV tokens", "chunk"]
    headings += ["weights"] * rounded + ["device"] * placed
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("worker", "role") else "right")
    for worker in topology.workers:
        weights = topology.kv_dtype if worker.weights == "same" else worker.weights
        table.add_row(*_cells(worker), *[weights] * rounded, *[worker.torch_device] * placed)
    return table


def _cells(worker: WorkerPlace) -> tuple[str, ...]:
    return (
        worker.worker_id,
        worker.role.value,
        str(worker.pid) if worker.pid is not None else "–",
        cores_text(worker.cores),
        str(worker.threads),
        f"{worker.kv_tokens:,}",
        str(worker.token_budget),
    )


def cores_text(cores: tuple[int, ...]) -> str:
    """``0-3,6`` for ``(0, 1, 2, 3, 6)``."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs) or "any"


def size(count: int) -> str:
    """Bytes for a reader."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} B"


def _addresses(url: str) -> Table:
    table = _plain_table()
    table.add_row("API", f"{url}/v1")
    table.add_row("docs", f"{url}/docs")
    table.add_row("metrics", f"{url}/metrics")
    return table


def request_to_paste(url: str, model_name: str, *, needs_key: bool) -> str:
    """A curl command that works as it stands."""
    key = ' \\\n  -H "Authorization: Bearer $DIPTYCH_API_KEY"' if needs_key else ""
    body = f'{{"model": "{model_name}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    return f"curl {url}/v1/chat/completions{key} \\\n  -H 'Content-Type: application/json' \\\n  -d '{body}'"


def _plain_table() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    return table
