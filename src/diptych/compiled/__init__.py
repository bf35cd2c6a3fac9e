"""Compiled forms of the control plane and of virtual time, used when they were made from exactly these
sources.

Knows: where compiled modules lie, what they were made from. Does not know: what they do, how they are made
(`diptych.compiled.build`).

The sources stay the only truth: a compiled module is the same module, faster (docs/decisions/0009). If one
source file has changed since, or the interpreter is another one, or ``DIPTYCH_COMPILED=0`` is set, Python
runs the sources.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from collections.abc import Sequence
from hashlib import blake2b
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = Path(__file__).parents[1]
FOLDER = Path(__file__).with_name("modules")
MANIFEST = FOLDER / "manifest.json"
SWITCH = "DIPTYCH_COMPILED"

READ = ("domain", "performance", "scheduling", "orchestration", "planning", "workload")
"""Packages whose sources the compiled modules were made from: types of the one are laid down in the other."""


def digest() -> str:
    """Of all sources that compiled modules depend on."""
    total = blake2b(digest_size=16)
    for package in READ:
        for path in sorted((PACKAGE / package).glob("*.py")):
            total.update(f"{package}/{path.name}\0".encode())
            total.update(path.read_bytes())
    return total.hexdigest()


class Finder:
    """Finds compiled modules in place of their sources. Looks at the sources once, when the first module is
    asked for."""

    def __init__(self) -> None:
        self._files: dict[str, Path] | None = None
        self.why_not: str | None = None
        """Why the sources run instead; None if they do not, or nobody has asked yet."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        del path, target
        if not name.startswith("diptych"):
            return None
        if self._files is None:
            if not _may_be_compiled(name):
                return None
            self._files = self._read()
        file = self._files.get(name)
        if file is None:
            return None
        return spec_from_file_location(name, file, loader=ExtensionFileLoader(name, str(file)))

    @property
    def active(self) -> bool:
        """Whether compiled modules are used."""
        if self._files is None:
            self._files = self._read()
        return bool(self._files)

    def _read(self) -> dict[str, Path]:
        manifest, self.why_not = _usable()
        return {} if manifest is None else {name: FOLDER / it for name, it in manifest["modules"].items()}


def _may_be_compiled(name: str) -> bool:
    parts = name.split(".")
    return len(parts) > 2 and parts[1] in READ


def _usable() -> tuple[dict[str, Any] | None, str | None]:
    """The manifest, or why it is of no use."""
    if os.environ.get(SWITCH, "1") == "0":
        return None, f"{SWITCH}=0"
    try:
        manifest = json.loads(MANIFEST.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None, "not built; python -m diptych.compiled.build"
    if manifest["abi"] != sysconfig.get_config_var("SOABI"):
        return None, "built for another interpreter; python -m diptych.compiled.build"
    if manifest["digest"] != digest():
        return None, "the sources have changed; python -m diptych.compiled.build"
    return manifest, None


FINDER = Finder()


def install() -> None:
    """Put the finder before all others, once."""
    if FINDER not in sys.meta_path:
        sys.meta_path.insert(0, FINDER)


def describe() -> str:
    """One line: what runs."""
    return "compiled" if FINDER.active else f"Python sources ({FINDER.why_not})"
