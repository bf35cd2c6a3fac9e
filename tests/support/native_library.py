"""The native kernels under test: the built library, or one named by the environment (a sanitized build, tiles
in software)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

LIBRARY_VARIABLE = "DIPTYCH_TEST_NATIVE_LIBRARY"
EMULATED_VARIABLE = "DIPTYCH_TEST_EMULATED_TILES"
"""Set: the library brings tiles of its own (`emulated_tiles.h`), whatever the processor has."""


def native_kernels(threads: int = 2):
    """Kernels, or a skip with the reason."""
    from diptych.kernels.native import load

    found = load.processor_features()
    if os.environ.get(EMULATED_VARIABLE):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(load, "processor_features", lambda: found.union(load.NEEDED_FOR_TILES))
            return _kernels(threads)
    return _kernels(threads)


def _kernels(threads: int):
    from diptych.kernels.native.build import LIBRARY
    from diptych.kernels.native.kernels import NativeKernels
    from diptych.kernels.native.load import NotNative, library

    try:
        return NativeKernels(library(Path(os.environ.get(LIBRARY_VARIABLE, LIBRARY))), threads)
    except NotNative as why:
        pytest.skip(f"native kernels: {why}")
