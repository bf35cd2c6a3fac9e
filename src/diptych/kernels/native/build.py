"""Compile the C++ beside this file: ``python -m diptych.kernels.native.build``.

Knows: the compiler and its flags. Does not know: torch; who uses the library (`load`).

The library is built for AVX-512 and AMX whatever this machine has. It is used only where the processor has
the former, and uses the latter only where the processor has that, too.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
LIBRARY = HERE / "libdiptych_native.so"

FLAGS = ("-std=c++20", "-O3", "-fPIC", "-shared", "-pthread", "-Wall", "-Wextra")
QUIET = ("-Wno-uninitialized", "-Wno-maybe-uninitialized")
"""GCC 12 warns about its own intrinsics."""

PROCESSOR = tuple(
    f"-m{it}"
    for it in (
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512dq",
        "avx512bf16",
        "avx512vnni",
        "amx-tile",
        "amx-bf16",
        "amx-int8",
        "fma",
    )
)

SANITIZE = (
    "-O1",
    "-g",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
)


class CannotCompile(Exception):
    """The library cannot be made here; torch computes instead."""


def build(target: Path = LIBRARY, *, sanitize: bool = False, before: Path | None = None) -> Path:
    """Compile and link everything, each file behind the header ``before``. With ``sanitize`` the library
    needs the sanitizer's runtime to be loaded first.

    Raises:
        CannotCompile: another processor, no compiler, one that is too old.
    """
    if platform.machine() not in ("x86_64", "AMD64") or not sys.platform.startswith("linux"):
        raise CannotCompile(f"there is no native code for {sys.platform} on {platform.machine()}")
    compiler = compiler_name()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / target.name
        special = (*(SANITIZE if sanitize else ()), *(("-include", str(before)) if before else ()))
        command = [compiler, *FLAGS, *QUIET, *PROCESSOR, *special, "-o", str(made)]
        done = subprocess.run(
            [*command, *map(str, sorted(HERE.glob("*.cpp")))], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise CannotCompile(f"{compiler}: {done.stderr.strip()[-1500:]}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, target)
    return target


def compiler_name() -> str:
    """The C++ compiler. Raises `CannotCompile` without one."""
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        if name and shutil.which(name):
            return name
    raise CannotCompile("there is no C++ compiler")


def main() -> int:
    """Build, and say what became of it."""
    try:
        target = build()
    except CannotCompile as error:
        print(f"not compiled, torch computes instead: {error}", file=sys.stderr)
        return 1
    print(f"compiled {target.name}, {target.stat().st_size / 2**10:.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
