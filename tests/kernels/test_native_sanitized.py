"""The native library under the address and undefined-behaviour sanitizers: the same tests, watched, on
vectors and on tiles."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diptych.kernels.native.build import CannotCompile, build, compiler_name
from diptych.kernels.native.load import NEEDED_FOR_TILES, SWITCH, processor_features
from support.native_library import EMULATED_VARIABLE, LIBRARY_VARIABLE, native_kernels

REPOSITORY = Path(__file__).parents[2]
EMULATED_TILES = REPOSITORY / "tests" / "support" / "emulated_tiles.h"
KERNELS, ENGINE = Path("tests/kernels"), Path("tests/engine")
WATCHED = (
    KERNELS / "test_native_linear.py",
    KERNELS / "test_native_quantised.py",
    KERNELS / "test_native_attention.py",
    KERNELS / "test_native_elementwise.py",
    ENGINE / "test_engine_sampler.py",
)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("unit", ["vectors", "tiles"])
def test_no_access_beyond_any_buffer(unit: str, tmp_path: Path) -> None:
    """Also where the processor has no tiles: then these are emulated."""
    native_kernels()
    emulated = unit == "tiles" and not processor_features().issuperset(NEEDED_FOR_TILES)
    try:
        library = build(
            tmp_path / "libwatched.so", sanitize=True, before=EMULATED_TILES if emulated else None
        )
    except CannotCompile as why:
        pytest.skip(str(why))
    runtimes = [_runtime(name) for name in ("libasan.so", "libubsan.so")]
    environment = os.environ | {
        LIBRARY_VARIABLE: str(library),
        EMULATED_VARIABLE: "1" if emulated else "",
        SWITCH: "vectors" if unit == "vectors" else "",
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0",  # of Python and torch, which are not watched
    }
    files = [str(REPOSITORY / path) for path in WATCHED]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "skipped" not in done.stdout.splitlines()[-1]


def _runtime(name: str) -> str:
    found = subprocess.run(
        [compiler_name(), f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(found).is_file():
        pytest.skip(f"the compiler brings no {name}")
    return found
