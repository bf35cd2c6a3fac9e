"""The native library under the address and undefined-behaviour sanitizers: the same tests, watched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diptych.kernels.native.build import CannotCompile, build, compiler_name
from support.native_library import LIBRARY_VARIABLE, native_kernels

REPOSITORY = Path(__file__).parents[2]
KERNELS, ENGINE = Path("tests/kernels"), Path("tests/engine")
WATCHED = (
    KERNELS / "test_native_linear.py",
    KERNELS / "test_native_quantised.py",
    KERNELS / "test_native_attention.py",
    KERNELS / "test_native_elementwise.py",
    ENGINE / "test_engine_sampler.py",
)


@pytest.mark.timeout(300)
def test_no_access_beyond_any_buffer(tmp_path: Path) -> None:
    native_kernels()
    try:
        library = build(tmp_path / "libwatched.so", sanitize=True)
    except CannotCompile as why:
        pytest.skip(str(why))
    runtimes = [_runtime(name) for name in ("libasan.so", "libubsan.so")]
    environment = os.environ | {
        LIBRARY_VARIABLE: str(library),
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
