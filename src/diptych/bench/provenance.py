"""Where a figure comes from: hardware, versions, date, command, commit.

Knows: how to ask the machine it runs on. Does not know: what was measured, the server.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import Any

import orjson


def origin(distributions: Sequence[str]) -> dict[str, Any]:
    """What a reader needs in order to repeat a measurement. ``distributions``: packages whose versions
    matter."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": command(),
        "commit": git_commit(),
        "python": platform.python_version(),
        **{name: installed(name) for name in distributions},
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
    }


def command() -> str:
    """As it was typed, without the value of a key."""
    script = Path(sys.argv[0])
    start = ["python", "-m", script.parent.name] if script.name == "__main__.py" else [script.name]
    words = [*start, *sys.argv[1:]]
    hidden = [
        "***" if before == "--api-key" else "--api-key=***" if word.startswith("--api-key=") else word
        for before, word in zip(["", *words], words, strict=False)
    ]
    return shlex.join(hidden)


def git_commit() -> str | None:
    """Of the checkout that this code runs from; None if it is none."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or None


def cpu_model() -> str:
    """Name of the processor, as far as the kernel tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def installed(name: str) -> str | None:
    """Version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def config_hash(settings: dict[str, Any]) -> str:
    """Equal for equal settings."""
    return blake2b(orjson.dumps(settings, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()
