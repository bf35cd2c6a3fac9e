"""The native kernels under test: the built library, or one named by the environment (a sanitized build)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

LIBRARY_VARIABLE = "DIPTYCH_TEST_NATIVE_LIBRARY"


def native_kernels(threads: int = 2):
    """Kernels, or a skip with the reason."""
    from diptych.kernels.native.build import LIBRARY
    from diptych.kernels.native.kernels import NativeKernels
    from diptych.kernels.native.load import NotNative, library

    try:
        return NativeKernels(library(Path(os.environ.get(LIBRARY_VARIABLE, LIBRARY))), threads)
    except NotNative as why:
        pytest.skip(f"native kernels: {why}")
