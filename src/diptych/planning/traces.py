"""Workloads out of files and out of their text form.

Knows: opening files. Does not know: formats (`diptych.workload` reads lines), what a workload is used for.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from diptych.domain.errors import SpecError
from diptych.workload import formats
from diptych.workload.formats import Reading
from diptych.workload.making import synthetic
from diptych.workload.nearest import nearest
from diptych.workload.readers import servegen
from diptych.workload.record import Arrival, Workload

HEAD_LINES = 100
"""Lines that are read to tell a format and to say which fields are dropped."""
HEAD_CHARACTERS = 1 << 20
"""Most characters read of one line for that: a JSON array may be a single line."""
TRACE_ENDING, DATASET_ENDING = "-trace.csv", "-dataset.json"
"""ServeGen's two files of a client."""


def open_workload(spec: str, reading: Reading | None = None) -> Workload:
    """The workload that ``spec`` names: a trace's file, ServeGen's folder, or `synthetic:…`.

    A file is read anew for each reader, line by line; nothing of it is held. Raises `SpecError` here if the
    format is not known, and while reading at the first wrong line.
    """
    if spec.startswith(synthetic.PREFIX):
        return synthetic.workload(spec, lambda name: open_workload(name, reading))
    path = Path(spec)
    if path.is_dir():
        return _servegen(path, (reading or Reading()).seed)
    if not path.is_file():
        raise SpecError(_missing(path))
    found = formats.opened(_head(path), spec, reading or Reading())

    def arrivals() -> Iterator[Arrival]:
        return found.read(_lines(path), spec)

    return Workload(spec, arrivals, found.block_tokens, None, (f"{found.name} trace", *found.notes))


def _servegen(folder: Path, seed: int) -> Workload:
    """ServeGen's folder: two small files a client, held while they are drawn from."""
    names = sorted(
        (path.name.removesuffix(TRACE_ENDING) for path in folder.glob(f"*{TRACE_ENDING}")),
        key=lambda name: (len(name), name),
    )
    if not names:
        raise SpecError(
            f"{folder}: is a folder without ServeGen's clients (chunk-N-trace.csv); name a file in it"
        )

    def arrivals() -> Iterator[Arrival]:
        clients = [
            servegen.Client(
                name,
                list(_lines(folder / f"{name}{TRACE_ENDING}")),
                "".join(_lines(folder / f"{name}{DATASET_ENDING}")),
            )
            for name in names
        ]
        return servegen.read(clients, str(folder), seed)

    note = f"servegen folder, {len(names)} clients, seed {seed}"
    return Workload(str(folder), arrivals, notes=(note, *servegen.NOTES))


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise SpecError(_binary(path, error)) from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None


def _head(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8") as file:
            read = iter(lambda: file.readline(HEAD_CHARACTERS), "")
            return list(islice(read, HEAD_LINES))
    except UnicodeDecodeError as error:
        raise SpecError(_binary(path, error)) from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None


def _binary(path: Path, error: UnicodeDecodeError) -> str:
    packed = path.suffix in (".gz", ".zst", ".bz2", ".xz", ".zip")
    remedy = "unpack it first" if packed else "traces are text in UTF-8"
    return f"{path}: is not text ({error.reason} at byte {error.start}); {remedy}"


def _missing(path: Path) -> str:
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(path.name, names)
    hint = (
        f"did you mean '{path.parent / near}'?" if near else f"a file, or {synthetic.PREFIX}poisson,rate=4,…"
    )
    return f"{path}: no such file; {hint}"
