"""Where the data of the tests lies, and reading it.

Knows: paths inside the data folder. Does not know: what the files mean.
"""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

from diptych.domain.errors import SpecError
from diptych.planning.traces import open_workload
from diptych.workload.record import Workload

ENVIRONMENT = "DIPTYCH_DATA"
"""Names the data folder for tests."""


def default_folder() -> Path:
    """The folder of the environment variable, or ``shared/data`` beside the repository."""
    named = os.environ.get(ENVIRONMENT)
    return Path(named) if named else Path(__file__).resolve().parents[5] / "shared" / "data"


def checked(folder: Path) -> Path:
    """Raises `SpecError` if this is no data folder."""
    if not (folder / "validation").is_dir():
        raise SpecError(
            f"--data: {folder} has no folder 'validation'; name the folder with traces/ and validation/"
        )
    return folder


def read_json(folder: Path, name: str) -> Any:
    """A JSON file of the folder."""
    return json.loads(_existing(folder, name).read_text("utf-8"))


def read_csv(folder: Path, name: str) -> list[dict[str, str]]:
    """A CSV file with a header."""
    with _existing(folder, name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_lines(folder: Path, name: str) -> list[dict[str, Any]]:
    """A JSON object a line."""
    lines = _existing(folder, name).read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def azure(folder: Path, which: str) -> Workload:
    """Azure's trace ``code`` or ``conv`` of 2023."""
    return open_workload(str(_existing(folder, f"traces/azure2023/AzureLLMInferenceTrace_{which}.csv")))


def mooncake(folder: Path) -> Workload:
    """Mooncake's conversation trace."""
    return open_workload(str(_existing(folder, "traces/mooncake_fast25/conversation_trace.jsonl")))


def _existing(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise SpecError(f"--data: {folder} has no file {name}; this test needs it")
    return path
