"""Workloads from files to files, with a bar while it lasts.

Knows: progress, files that appear only when they are complete. Does not know: formats, what is changed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from diptych.domain.errors import SpecError
from diptych.planning.traces import open_workload
from diptych.workload import writer
from diptych.workload.ceilings import PrefixCeiling, PrefixWalk
from diptych.workload.formats import Reading
from diptych.workload.making.grammar import to_number
from diptych.workload.readers.sharegpt import by_characters
from diptych.workload.record import Arrival, Workload
from diptych.workload.shares import PhaseRates, Window, WindowTally
from diptych.workload.statistics import Statistics, Tally

STANDARD_OUTPUT = "-"
STEP = 1000
"""Requests between two movements of the bar."""


@dataclass(frozen=True)
class Inspected:
    """All that one pass over a workload finds."""

    workload: Workload
    statistics: Statistics
    ceiling: PrefixCeiling
    windows: list[Window] | None
    window_s: float


def open_as(
    spec: str,
    block_tokens: int | None = None,
    characters_per_token: float | None = None,
    seed: int = 0,
    *,
    ordered: bool = True,
) -> Workload:
    """The workload that ``spec`` names. Raises `SpecError`."""
    if block_tokens is not None and block_tokens < 1:
        raise SpecError(f"--block-tokens: {block_tokens} is not possible; at least 1")
    reading = Reading(block_tokens=block_tokens, ordered=ordered, seed=seed)
    if characters_per_token is not None:
        note = f"lengths estimated at {characters_per_token:g} characters a token"
        reading = replace(reading, count_tokens=by_characters(characters_per_token), count_note=note)
    return open_workload(spec, reading)


def inspected(
    workload: Workload, capacities_tokens: tuple[int, ...], rates: PhaseRates | None, window_s: float
) -> Inspected:
    """Everything in one pass."""
    tally = Tally(workload.block_tokens)
    walk = PrefixWalk(workload.block_tokens, capacities_tokens)
    shares = None if rates is None else WindowTally(rates, window_s)
    for arrival in watched(workload):
        tally.add(arrival)
        walk.add(arrival)
        if shares is not None:
            shares.add(arrival)
    found = tally.result()
    if not found.requests:
        raise SpecError(f"{workload.name}: has no requests")
    windows = None if shares is None else shares.result()
    return Inspected(workload, found, walk.result(), windows, window_s)


def watched(workload: Workload) -> Iterator[Arrival]:
    """The same arrivals, with a bar on standard error if that is a terminal."""
    if not sys.stderr.isatty():
        yield from workload
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("requests"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=workload.requests)
        for count, arrival in enumerate(workload, 1):
            if count % STEP == 0:
                progress.update(task, completed=count)
            yield arrival


def write(workload: Workload, out: str, *sources: str) -> None:
    """Native lines into ``out``; what the workload has to say goes to standard error.

    The file appears when it is complete: a wrong line in the source leaves nothing behind. Raises
    `SpecError` if it would overwrite one of the ``sources``.
    """
    count = 0

    def counted() -> Iterator[Arrival]:
        nonlocal count
        for arrival in watched(workload):
            count += 1
            yield arrival

    with _output(out, sources) as put:
        for line in writer.lines(replace(workload, arrivals=counted)):
            put(line + "\n")
        if not count:
            raise SpecError(f"{workload.name}: has no requests; nothing is written")
    for note in workload.notes:
        print(f"note: {note}", file=sys.stderr)
    where = "" if out == STANDARD_OUTPUT else f" to {out}"
    print(f"wrote {count} requests{where}", file=sys.stderr)


def sizes(text: str) -> tuple[int, ...]:
    """Sizes of caches: `1M,3M`."""
    found = tuple(int(to_number("--cache-tokens", part.strip())) for part in text.split(",") if part.strip())
    if wrong := [size for size in found if size < 1]:
        raise SpecError(f"--cache-tokens: {wrong[0]} is not possible; at least 1")
    return found


def phase_rates(prefill: float | None, decode: float | None) -> PhaseRates | None:
    """Both or none."""
    if prefill is None and decode is None:
        return None
    if prefill is None or decode is None:
        missing = "--prefill-rate" if prefill is None else "--decode-rate"
        raise SpecError(f"{missing}: missing; the prefill share needs both rates")
    return PhaseRates(prefill, decode)


@contextmanager
def _output(out: str, sources: tuple[str, ...]) -> Iterator:
    if out == STANDARD_OUTPUT:
        yield sys.stdout.write
        return
    if out.startswith("-"):
        raise SpecError(f"unknown option '{out}'; a file to write stands there, or - for standard output")
    path = Path(out)
    if any(path.exists() and Path(name).exists() and path.samefile(name) for name in sources):
        raise SpecError(f"{out}: is also read; write to another file")
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            yield file.write
        os.replace(part, path)
    except OSError as error:
        raise SpecError(f"{out}: cannot be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
