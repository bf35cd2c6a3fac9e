"""Where a figure comes from: hardware, versions, date, command.

Knows: how to ask the machine. Does not know: what was measured.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS_DIR = Path(__file__).parent / "results"


def provenance() -> dict[str, Any]:
    """What a reader needs in order to repeat a measurement."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": f"python -m benchmarks {' '.join(sys.argv[1:])}".strip(),
        "commit": _git_commit(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "diptych": version("diptych"),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
    }


def save(theme: str, result: dict[str, Any]) -> Path:
    """Write a result beside its provenance, named by theme and month."""
    RESULTS_DIR.mkdir(exist_ok=True)
    origin = provenance()
    path = RESULTS_DIR / f"{theme}-cpu{origin['cores']}-{origin['date'][:7]}.json"
    path.write_text(json.dumps({"provenance": origin, **result}, indent=2) + "\n")
    return path


def _git_commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=RESULTS_DIR.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
