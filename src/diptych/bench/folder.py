"""A result as files, and back.

Knows: names and forms of the files. Does not know: what the figures mean.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import orjson

from diptych.bench.page import page
from diptych.bench.run import Result
from diptych.domain.errors import SpecError

SUMMARY = "summary.json"
REQUESTS = "requests.jsonl"
TABLE = "requests.csv"
PAGE = "report.html"

_NOT_IN_TABLE = ("chunk_s", "chunk_tokens", "server")
"""Lists and objects."""


def check(folder: Path) -> None:
    """Raises `SpecError` if a result can not be written there, before anything is measured."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"--output {folder}: {error.strerror}; name a folder that can be made") from None


def write(folder: Path, result: Result) -> None:
    """All four files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMMARY).write_text(json.dumps(result.summary, indent=2) + "\n", encoding="utf-8")
    records = [{"run": number, **sample.as_data()} for number, sample in result.samples]
    (folder / REQUESTS).write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    _write_table(folder / TABLE, records)
    (folder / PAGE).write_text(page(result), encoding="utf-8")


def read_summary(folder: Path) -> dict[str, Any]:
    """Raises `SpecError` if there is none."""
    return _json(folder / SUMMARY, _bytes(folder / SUMMARY))


def read_requests(folder: Path) -> list[dict[str, Any]]:
    """Records of all requests. Raises `SpecError` if there are none."""
    path = folder / REQUESTS
    return [_json(path, line) for line in _bytes(path).splitlines()]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        remedy = "name a folder that `diptych bench --output` has written"
        raise SpecError(f"{path}: {error.strerror}; {remedy}") from None


def _json(path: Path, text: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise SpecError(f"{path}: is no JSON ({error})") from None
    if not isinstance(found, dict):
        raise SpecError(f"{path}: holds no JSON objects")
    return found


def _write_table(path: Path, records: list[dict[str, Any]]) -> None:
    names = [name for name in records[0] if name not in _NOT_IN_TABLE] if records else []
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(records)
