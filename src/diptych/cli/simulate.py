"""`diptych simulate`: a cluster spec and a workload in virtual time.

Knows: reading the files, printing the result. Does not know: how it comes about (`diptych.planning`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from diptych.planning.faults import Fault
    from diptych.planning.result import SimulationResult


def simulate(
    spec: str,
    /,
    *,
    workload: str,
    faults: Path | None = None,
    requests: int | None = None,
    output: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Run a workload on a cluster in virtual time: the production control plane on cost models.

    Unless the spec sets kv.block_tokens, KV memory is counted in the blocks in which the workload names its
    prefixes (512 tokens in Mooncake's traces).

    Parameters
    ----------
    spec: str
        A cluster spec (.yaml) whose pools name a device, a profile or rates.
    workload: str
        A trace file, or `synthetic:…` (see `diptych workload --help`).
    faults: Path
        YAML list of faults, such as `- {type: kill, t_s: 3, worker_id: decode-0, back_after_s: 20}`
        (also slow, slow_link, cold_start).
    requests: int
        Only the first so many requests of the workload.
    output: Path
        Directory for result.json and requests.jsonl (one line for each request).
    as_json: bool
        Print one JSON object instead of tables.
    """
    from diptych.cli.spec import load_file
    from diptych.planning.granularity import in_blocks_of
    from diptych.planning.report.simulation import simulation_data
    from diptych.planning.simulate import simulate as run
    from diptych.planning.traces import open_workload

    cluster = load_file(Path(spec)).spec
    script = read_faults(faults) if faults is not None else ()
    load = _first(open_workload(workload), requests)
    cluster = in_blocks_of(cluster, load)
    with _working("simulating"):
        result = run(cluster, load, faults=script, keep_requests=output is not None)
    if output is not None:
        _write(result, output)
    if as_json:
        print(json.dumps(simulation_data(result)))
    else:
        _print(result, f"{load.name}, KV in blocks of {cluster.kv.block_tokens} tokens")


def read_faults(path: Path) -> tuple[Fault, ...]:
    """A script of faults. Raises `SpecError` naming file, entry and field."""
    import msgspec
    import yaml

    from diptych.domain.errors import SpecError
    from diptych.planning.faults import Fault

    try:
        return msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")) or [], tuple[Fault, ...])
    except OSError as error:
        raise SpecError(f"--faults: cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"--faults: {path} is not valid YAML: {error}") from None
    except msgspec.ValidationError as error:
        kinds = "type is one of kill, slow, slow_link, cold_start"
        raise SpecError(f"--faults: {path}: {error}; {kinds}") from None


def _first(load: Any, requests: int | None) -> Any:
    """The workload's beginning."""
    from dataclasses import replace
    from itertools import islice

    from diptych.domain.errors import SpecError

    if requests is None:
        return load
    if requests < 1:
        raise SpecError(f"--requests {requests}: simulate at least 1 request")
    return replace(load, arrivals=lambda: islice(iter(load), requests))


def _working(word: str) -> Any:
    """A sign of life on a terminal, nothing elsewhere."""
    from contextlib import nullcontext

    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(word)


def _write(result: SimulationResult, folder: Path) -> None:
    import msgspec

    from diptych.domain.errors import SpecError

    whole = msgspec.to_builtins(result)
    records = whole.pop("records")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "requests.jsonl").write_text(lines, encoding="utf-8")
    except OSError as error:
        raise SpecError(
            f"--output {folder}: {error.strerror}; name a directory that can be written"
        ) from None


def _print(result: SimulationResult, name: str) -> None:
    from rich.console import Console

    from diptych.cli.tables import number, percent, table

    console = Console()
    console.print(
        f"{result.requests:,} requests of {name}: {result.completed:,} completed, "
        f"{result.rejected:,} rejected, {result.failed:,} failed, "
        f"in {number(result.makespan_s, 4)} s of virtual time ({number(result.wall_s)} s of ours)"
    )
    console.print(
        f"goodput {number(result.goodput_rps)} requests/s, targets met by {percent(result.slo_attainment)}, "
        f"{number(result.output_tokens_per_s)} output tokens/s, "
        f"{result.prefix_hit_tokens:,} of {result.prompt_tokens:,} prompt tokens from caches"
    )
    timed = {
        "TTFT": result.ttft_s,
        "TPOT": result.tpot_s,
        "ITL": result.itl_s,
        "e2e": result.e2e_s,
        "handoff": result.handoff.exposed_s,
    }
    rows = [
        (label, number(it.p50), number(it.p90), number(it.p99), number(it.mean))
        for label, it in timed.items()
    ]
    console.print(table("Seconds", ("", "p50", "p90", "p99", "mean"), rows))
    pools = [
        (
            f"{pool} × {it.workers}",
            percent(it.utilisation),
            number(it.prefill_s),
            number(it.decode_s),
            percent(it.kv_peak_fraction),
            number(it.energy_j / 3.6e6 if it.energy_j is not None else None),
            number(it.cost),
        )
        for pool, it in result.pools.items()
    ]
    columns = ("pool", "busy", "prefill s", "decode s", "KV at most", "kWh", "cost")
    console.print(table("Pools", columns, pools))
