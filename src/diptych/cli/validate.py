"""`diptych validate`: does the simulator say what this machine does?

Knows: flags, tables, exit codes. Does not know: how either side is run.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from diptych.cli.options import ClusterFlags

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from diptych.bench.house.anchor import Drift
    from diptych.bench.house.validate import Comparison
    from diptych.domain.cluster import ClusterSpec

EXIT_DISAGREES = 1


def validate(
    target: str | None = None,
    /,
    *,
    seconds: float = 90.0,
    rounds: int = 12,
    seed: int = 1,
    json: Annotated[bool, Parameter(name="--json")] = False,
    output: Path | None = None,
    cluster: ClusterFlags = ClusterFlags(),
) -> None:
    """Run the built-in engine under load, run the same requests in virtual time, and compare.

    Without pools in flags or spec: one mixed worker, then one prefill and one decode worker; each is
    calibrated first, then three loads and a trace with shared prefixes. Exit code 1 when a percentile lies
    more than 10 % off. Takes about half an hour, and wants the machine for itself; the last lines say how
    steady it was. Where its speed moves by more than a tenth, chance alone may put a percentile off: run for
    longer (--seconds 180 --rounds 24).

    Parameters
    ----------
    target: str
        A model (directory, hub name or 'builtin') or a spec file (.yaml).
    seconds: float
        About how long each load is run for real.
    rounds: int
        In so many pieces, each with other requests, with the other loads in between and a look at the
        machine's speed around each: short pieces follow a machine whose speed changes within a minute.
    seed: int
        Of arrivals and lengths.
    json: bool
        One object on stdout instead of a table.
    output: Path
        A directory for the profiles, the comparison, each run of each load (what its requests saw and how
        long its workers computed, on both sides), and each step of the looks in between.
    """
    import msgspec
    from rich.console import Console

    from diptych.bench.house.calibrate import write
    from diptych.bench.house.validate import validate as compare
    from diptych.bench.provenance import origin
    from diptych.cli.progress import Steps
    from diptych.domain.errors import SpecError

    if seconds <= 0 or rounds < 1:
        raise SpecError(f"--seconds {seconds:g} --rounds {rounds}: more than no time, in at least one piece")
    console = Console(stderr=True)
    with Steps(console) as steps:
        found = asyncio.run(
            compare(_topologies(target, cluster), seconds=seconds, rounds=rounds, seed=seed, say=steps.say)
        )
    document: dict[str, Any] = {
        "provenance": origin(("diptych", "torch")),
        "steadiness": {
            name: {"prefill": (low.prefill, high.prefill), "decode": (low.decode, high.decode)}
            for name, (low, high) in found.steadiness.items()
        },
        "passed": all(row.passed for row in found.rows),
        "rows": [msgspec.to_builtins(row) | {"error": row.error, "passed": row.passed} for row in found.rows],
    }
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        for name, calibration in found.calibrations.items():
            write(calibration, output / f"profile-{name}.yaml")
        (output / "validation.json").write_bytes(msgspec.json.format(msgspec.json.encode(document)))
        (output / "pieces.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(found.pieces))
        (output / "looks.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(found.looks))
    if json:
        print(msgspec.json.encode(document).decode())
    else:
        out = Console()
        out.print(_table(found.rows))
        for name, (low, high) in found.steadiness.items():
            out.print(f"{name}: {_words(low, high)}", soft_wrap=True, highlight=False)
    if not document["passed"]:
        sys.exit(EXIT_DISAGREES)


def _topologies(target: str | None, cluster: ClusterFlags) -> dict[str, ClusterSpec]:
    """What the flags ask for; else both ways of using this machine."""
    from dataclasses import replace

    from diptych.cli.spec import SPEC_SUFFIXES, resolve

    asked = (cluster.prefill, cluster.decode, cluster.mixed) != (None, None, None)
    if asked or (target is not None and target.endswith(SPEC_SUFFIXES)):
        return {"spec": resolve(target, cluster, os.environ).spec}
    mixed = replace(cluster, mixed=1)
    split = replace(cluster, prefill=1, decode=1)
    return {
        "1 mixed": resolve(target, mixed, os.environ).spec,
        "1P+1D": resolve(target, split, os.environ).spec,
    }


def _words(low: Drift, high: Drift) -> str:
    return (
        f"in the middle 80 % of the looks, prompts took {low.prefill:.2f} to {high.prefill:.2f} and decodes "
        f"{low.decode:.2f} to {high.decode:.2f} of what the profile says"
    )


def _table(rows: Sequence[Comparison]) -> Table:
    """Fits 80 columns with times of minutes and errors of several times the figure."""
    from rich import box
    from rich.table import Table

    table = Table(
        title="simulated against measured, ms",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for heading in ("topology", "load", "requests", "metric", "measured", "simulated", "error", ""):
        words = heading in ("topology", "load", "metric", "")
        table.add_column(heading, justify="left" if words else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.topology,
            row.load,
            str(row.requests),
            row.metric,
            f"{1e3 * row.measured_s:.2f}",
            f"{1e3 * row.simulated_s:.2f}",
            f"{row.error:+.1%}",
            "ok" if row.passed else "off",
        )
    return table
