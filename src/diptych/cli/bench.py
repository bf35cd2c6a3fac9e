"""`diptych bench`: load for a server, what came of it, and two results side by side.

Knows: flags, the table, exit codes. Does not know: how a load is made or measured (`diptych.bench`).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Group, Parameter

from diptych.cli.durations import seconds

if TYPE_CHECKING:
    from rich.console import Console

    from diptych.bench.run import Progress, Result, Settings
    from diptych.workload.record import Workload

EXIT_FAILED = 1
EXIT_VOID = 3
"""The client was the bottleneck: the figures say nothing of the server."""
EXIT_INTERRUPTED = 130

app = App(name="bench", help="Put a load on a server on schedule, and measure what its clients see.")

_LOAD = Group("Load")
_REQUEST = Group("Requests")
_RESULT = Group("Result")


@Parameter(name="*", group=_LOAD)
@dataclass(frozen=True, kw_only=True)
class LoadFlags:
    """What is sent, and when."""

    requests: int | None = None
    """Most requests (default: all of the workload)."""
    duration: Annotated[float | None, Parameter(converter=seconds)] = None
    """Send nothing that is due later than this, such as 60s or 5m."""
    rate: float | None = None
    """Stretch or squeeze the workload to this mean rate, requests per second."""
    concurrency: int | None = None
    """Closed loop: keep so many in flight instead. For saturation only; no goodput comes of it."""
    warmup: Annotated[float, Parameter(converter=seconds)] = 0.0
    """Leave out of the figures what is due before."""
    cooldown: Annotated[float, Parameter(converter=seconds)] = 0.0
    """Leave out what is due in the last seconds of the schedule."""
    seeds: tuple[int, ...] = ()
    """One run for each seed, such as --seeds 1 --seeds 2."""
    repeat: int | None = None
    """As many runs with seeds 0, 1, 2, …"""


@Parameter(name="*", group=_REQUEST)
@dataclass(frozen=True, kw_only=True)
class RequestFlags:
    """What a request is like."""

    endpoint: Literal["completions", "chat"] = "completions"
    """'completions' sends token ids, so that lengths are exact; 'chat' sends words."""
    model: str | None = None
    """Name of the model (default: the first that the server names)."""
    api_key: str | None = None
    """Key for the server. Also from DIPTYCH_API_KEY, which keeps it out of the process list."""
    vocabulary: int | None = None
    """Draw token ids below this (default: what the server tells, or 1000)."""
    max_model_tokens: int | None = None
    """Longest prompt plus output (default: what the server tells)."""
    clamp: bool = False
    """Shorten requests that are too long for the model instead of leaving them out."""
    warm_cache: bool = False
    """Let a run meet what earlier ones left in the server's prompt cache."""
    token_ids: bool = False
    """Ask for token ids in each chunk: exact ITL where chunks hold several tokens. The first chunk then
    repeats the prompt."""
    timeout: Annotated[float, Parameter(converter=seconds)] = 600.0
    """Give a request up after this long."""


@Parameter(name="*", group=_RESULT)
@dataclass(frozen=True, kw_only=True)
class ResultFlags:
    """Targets, and where figures go."""

    ttft: Annotated[float | None, Parameter(converter=seconds)] = None
    """Target for the time to first token, such as 500ms."""
    tpot: Annotated[float | None, Parameter(converter=seconds)] = None
    """Target for the time per output token."""
    json: bool = False
    """Print one JSON object instead of a table."""
    output: Path | None = None
    """Folder for summary.json, requests.jsonl, requests.csv and report.html."""


@app.default
def bench(
    url: str,
    /,
    *,
    workload: str,
    load: LoadFlags = LoadFlags(),
    request: RequestFlags = RequestFlags(),
    result: ResultFlags = ResultFlags(),
) -> None:
    """Send a workload to a server on schedule, whatever its answers do, and report what its clients see.

    Exits with 3 when the client itself was the bottleneck, with 130 after Ctrl-C (what there is, is shown).

    Parameters
    ----------
    url: str
        The server, such as http://127.0.0.1:8000.
    workload: str
        A trace file, or a made workload such as 'synthetic:poisson,rate=4,input=500,output=100,requests=200'.
    """
    from diptych.bench import folder

    settings = _settings(url, load, request, result)
    if result.output is not None:
        folder.check(result.output)
    measured = _measure(settings, workload)
    if result.output is not None:
        folder.write(result.output, measured)
    if result.json:
        print(json.dumps(measured.summary))
    else:
        _print(measured, result.output)
    sys.exit(_exit_code(measured))


@app.command(name="compare")
def compare_results(
    a: Path, b: Path, /, *, as_json: Annotated[bool, Parameter(name="--json")] = False
) -> None:
    """Medians of two results, their 95 % intervals, and the ratio B ÷ A.

    Parameters
    ----------
    a: Path
        A folder that `diptych bench --output` has written.
    b: Path
        Another one.
    as_json: bool
        Print one JSON object instead of a table.
    """
    from diptych.bench import folder
    from diptych.bench.compare import compare

    summaries = (folder.read_summary(a), folder.read_summary(b))
    found = compare(summaries, (folder.read_requests(a), folder.read_requests(b)))
    if as_json:
        print(json.dumps(found))
    else:
        _print_comparison(found)


# ---------------------------------------------------------------- running


def _settings(url: str, load: LoadFlags, request: RequestFlags, result: ResultFlags) -> Settings:
    from diptych.bench.run import Settings
    from diptych.bench.schedule import Limits
    from diptych.domain.cluster import SloSpec

    _check(url, load, request, result)
    return Settings(
        url=url.rstrip("/").removesuffix("/v1"),
        endpoint=request.endpoint,
        model=request.model,
        api_key=request.api_key or os.environ.get("DIPTYCH_API_KEY", "").split(",")[0] or None,
        limits=Limits(load.requests, load.duration, load.rate),
        concurrency=load.concurrency,
        warmup_s=load.warmup,
        cooldown_s=load.cooldown,
        slo=SloSpec(ttft_s=result.ttft, tpot_s=result.tpot),
        seeds=load.seeds or tuple(range(load.repeat or 1)),
        clamp=request.clamp,
        warm_cache=request.warm_cache,
        token_ids=request.token_ids,
        vocabulary=request.vocabulary,
        max_model_tokens=request.max_model_tokens,
        timeout_s=request.timeout,
    )


def _check(url: str, load: LoadFlags, request: RequestFlags, result: ResultFlags) -> None:
    """Raises `SpecError` naming the flag."""
    from diptych.domain.errors import SpecError

    if not url.startswith(("http://", "https://")):
        raise SpecError(f"{url} is no URL; give one such as http://127.0.0.1:8000")
    if load.seeds and load.repeat is not None:
        raise SpecError("--seeds and --repeat say the same; give one of them")
    above_zero = {
        "--requests": load.requests,
        "--duration": load.duration,
        "--rate": load.rate,
        "--concurrency": load.concurrency,
        "--repeat": load.repeat,
        "--vocabulary": request.vocabulary,
        "--max-model-tokens": request.max_model_tokens,
        "--timeout": request.timeout,
        "--ttft": result.ttft,
        "--tpot": result.tpot,
    }
    for flag, value in above_zero.items():
        if value is not None and not value > 0:
            raise SpecError(f"{flag} {value:g}: must be above 0")


def _measure(settings: Settings, workload: str) -> Result:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(settings, workload))


async def _run(settings: Settings, workload: str) -> Result:
    """A first Ctrl-C or SIGTERM ends the load, and what there is gets reported."""
    from rich.console import Console

    from diptych.bench.run import run

    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    with _Shown(Console(stderr=True)) as shown:
        return await run(settings, lambda seed: workload_for(workload, seed), stop, shown.show)


def workload_for(spec: str, seed: int) -> Workload:
    """A made workload is made anew for each seed, unless it names its own."""
    from diptych.planning.traces import open_workload

    if spec.startswith("synthetic:") and ",seed=" not in spec:
        spec = f"{spec},seed={seed}"
    return open_workload(spec)


class _Shown:
    """A line of progress on a terminal; nothing elsewhere."""

    EVERY_S = 0.2

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("asking the server") if console.is_terminal else None
        self._next_s = 0.0

    def __enter__(self) -> _Shown:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self, progress: Progress) -> None:
        """Say how far it is."""
        if self._status is None:
            return
        now_s = asyncio.get_running_loop().time()
        if now_s < self._next_s:
            return
        self._next_s = now_s + self.EVERY_S
        sent = progress.loaded.samples
        running = sum(sample.end_s is None for sample in sent)
        run = f"run {progress.run + 1} of {progress.runs}: " if progress.runs > 1 else ""
        self._status.update(f"{run}{len(sent):,} of {progress.scheduled:,} sent, {running:,} in flight")


def _exit_code(result: Result) -> int:
    if result.partial:
        return EXIT_INTERRUPTED
    if result.void:
        return EXIT_VOID
    return 0 if result.summary["completed"] else EXIT_FAILED


# ---------------------------------------------------------------- printing


def _print(result: Result, output: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from diptych.bench.rows import COLUMNS, rows

    console, summary = Console(), result.summary
    table = Table(title=f"{summary['mode']}, {summary['measured_s']:.1f} s", box=None, title_justify="left")
    table.add_column("")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    plain: list[tuple[str, str]] = []
    for row in rows(summary):
        if len(row.cells) == len(COLUMNS):
            table.add_row(row.name, *row.cells)
        else:
            plain.append((row.name, row.cells[0]))
    console.print(table)
    counts = Table(box=None, show_header=False)
    for name, value in plain:
        counts.add_row(name, Text(value))
    console.print(counts)
    console.print(Text("times in ms with 95 % intervals; t0 is the scheduled moment", "dim"))
    _print_warnings(result, console)
    if output is not None:
        console.print(Text(f"written to {output}"))


def _print_warnings(result: Result, console: Console) -> None:
    from rich.text import Text

    summary = result.summary
    reason = summary["ttft_s"].get("p99_reason")
    lines: list[Any] = [Text(line, "dim") for line in (*summary["notes"], *([reason] if reason else []))]
    if result.void:
        lines.append(Text("VOID: " + "; ".join(summary["void_reasons"]), "bold red"))
    if result.partial:
        lines.append(Text("PARTIAL: interrupted before its end", "bold yellow"))
    for line in lines:
        console.print(line)


def _print_comparison(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("median or rate", "A", "B", "B ÷ A", box=None)
    for name, row in found["metrics"].items():
        cells = [_cell(row[side], row.get(f"{side}_interval")) for side in ("a", "b", "ratio")]
        table.add_row(name, *(Text(cell) for cell in cells))
    console = Console()
    console.print(table)
    for warning in found["warnings"]:
        console.print(Text(warning, "yellow"))


def _cell(value: float | None, ends: list[float] | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" + (f" [{ends[0]:.4g}, {ends[1]:.4g}]" if ends else "")
