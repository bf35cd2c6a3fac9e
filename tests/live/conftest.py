"""A copy of the built-in model for the session: its directory may be rewritten (by a training) meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from diptych.builtin import builtin_model_dir


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the copy lies."""
    return Path(shutil.copytree(builtin_model_dir(), tmp_path_factory.mktemp("model") / "tales"))
