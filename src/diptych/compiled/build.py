"""Compile the control plane and virtual time with mypyc: ``python -m diptych.compiled.build``.

Knows: which modules are compiled, how mypyc is run. Does not know: what is in them.

Needs mypy, setuptools and a C compiler; the package runs without.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.util import find_spec
from pathlib import Path

from diptych.compiled import FOLDER, MANIFEST, PACKAGE, digest

GROUP = "diptych_core"

WHOLE = ("scheduling", "orchestration")
"""Packages of which every module is compiled."""

SINGLE = (
    "domain/kv",
    "domain/lifecycle",
    "performance/steps",
    "performance/profiled",
    "performance/estimate",
    "planning/agenda",
    "planning/leaps",
    "planning/driver",
    "planning/host",
    "planning/link",
    "planning/measure",
    "planning/recorder",
    "planning/requests",
    "planning/sessions",
    "planning/worker",
    "workload/lines",
    "workload/readers/mooncake",
)
"""Modules with the simulator's inner loops. Definitions of messages (msgspec) stay as they are: they are C
already."""

OWN_NAMES = "-fvisibility=hidden"
"""Nobody else calls the compiled functions: without this, each call among them goes through a table in which
another library could put a function of the same name, and none is inlined."""

SETUP = """
from setuptools import setup
from mypyc.build import mypycify
import sys
setup(
    name={group!r},
    script_args=["-q", "build_ext", "--build-lib", "out", "--build-temp", "tmp"],
    ext_modules=mypycify(
        ["--ignore-missing-imports", "--no-warn-unused-configs", *{files!r}],
        opt_level="2", debug_level="0", group_name={group!r}, strip_asserts=False,
    ),
    packages=[],
)
"""


class CannotCompile(Exception):
    """The compiled forms cannot be made here; the sources run as well."""


def sources() -> list[Path]:
    """What is compiled, relative to the package's parent."""
    names = [path for package in WHOLE for path in sorted((PACKAGE / package).glob("*.py"))]
    names += [PACKAGE / f"{name}.py" for name in SINGLE]
    return [path.relative_to(PACKAGE.parent) for path in names if path.name != "__init__.py"]


def compiler() -> str:
    """The C compiler. Raises `CannotCompile` without one."""
    name = os.environ.get("CC") or (sysconfig.get_config_var("CC") or "cc").split()[0]
    for candidate in (name, "gcc", "clang"):
        if shutil.which(candidate):
            return candidate
    raise CannotCompile("there is no C compiler")


def build() -> Path:
    """Compile everything and write the manifest; where the modules are.

    Raises:
        CannotCompile: a tool is missing, or a module does not compile.
    """
    for tool in ("mypyc", "setuptools"):
        if find_spec(tool) is None:
            raise CannotCompile(f"{tool} is not installed")
    environment = os.environ | {"CC": compiler(), "CFLAGS": f"{os.environ.get('CFLAGS', '')} {OWN_NAMES}"}
    made_from = digest()
    files = [path.as_posix() for path in sources()]
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        shutil.copytree(
            PACKAGE, room / PACKAGE.name, ignore=shutil.ignore_patterns("*.so", "__pycache__", "builtin")
        )
        script = room / "compile_core.py"
        script.write_text(SETUP.format(group=GROUP, files=files), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, script.name],
            cwd=room,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise CannotCompile((done.stdout + done.stderr).strip()[-2000:])
        _take(room / "out", made_from)
    return FOLDER


def _take(out: Path, made_from: str) -> None:
    """Move the modules here. The manifest comes last: without it nothing is used."""
    MANIFEST.unlink(missing_ok=True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    modules: dict[str, str] = {}
    for path in sorted(out.rglob("*.so")):
        name = ".".join(path.relative_to(out).with_name(path.name.split(".")[0]).parts)
        file = f"{name}.so"
        shutil.move(path, FOLDER / file)
        modules[name] = file
    manifest = {"abi": sysconfig.get_config_var("SOABI"), "digest": made_from, "modules": modules}
    MANIFEST.write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def main() -> int:
    """Build, and say what became of it."""
    try:
        folder = build()
    except CannotCompile as error:
        print(f"not compiled, the Python sources run instead: {error}", file=sys.stderr)
        return 1
    size_bytes = sum(path.stat().st_size for path in folder.iterdir())
    print(f"compiled {len(sources())} modules, {size_bytes / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
