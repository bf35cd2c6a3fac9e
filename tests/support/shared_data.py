"""Where the shared measurements lie: outside the repository, in the folder `DIPTYCH_DATA` or beside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.source import PACKAGE

REPOSITORY = PACKAGE.parents[1]


def data_file(name: str) -> Path:
    """The file or folder ``name`` of the shared data; skips the test where there is none."""
    folder = Path(os.environ.get("DIPTYCH_DATA", REPOSITORY.parent / "shared" / "data"))
    path = folder / name
    if not path.exists():
        pytest.skip(f"no shared data: {path} (set DIPTYCH_DATA)")
    return path
