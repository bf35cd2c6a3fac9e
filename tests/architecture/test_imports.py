"""What an import costs and drags in, seen by a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.source import PACKAGE

HEAVY = ("torch", "transformers", "safetensors")

TORCH_FREE = (
    "diptych.domain",
    "diptych.metrics",
    "diptych.scheduling",
    "diptych.orchestration",
    "diptych.server",
    "diptych.runtime.driver",
    "diptych.runtime.cluster",
    "diptych.cli.main",
)


def _modules_after(code: str) -> set[str]:
    """Top-level modules that are loaded in a new interpreter once ``code`` has run."""
    script = f"{code}\nimport sys\nprint('\\n' + ' '.join(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def _submodules(package: str) -> list[str]:
    """Every module of a package: a package's own file may import nothing at all."""
    folder = PACKAGE.parent.joinpath(*package.split("."))
    return [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted(folder.rglob("*.py"))
        if path.stem != "__main__"
    ] or [package]


@pytest.mark.parametrize("module", TORCH_FREE)
def test_loads_without_torch(module: str) -> None:
    loaded = _modules_after("\n".join(f"import {name}" for name in _submodules(module)))
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("module", ["domain", "metrics", "scheduling", "orchestration"])
def test_pure_rows_load_without_an_event_loop(module: str) -> None:
    """Measured without `pydantic` and `prometheus_client`, which load asyncio and sockets for themselves."""
    names = _submodules(f"diptych.{module}")
    script = "\n".join(
        [
            "import sys, pydantic, prometheus_client, msgspec",
            "before = set(sys.modules)",
            *(f"import {name}" for name in names),
            "new = {m.split('.')[0] for m in set(sys.modules) - before}",
            "assert not new & {'asyncio', 'socket', 'subprocess', 'multiprocessing', 'fastapi'}, new",
        ]
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_help_loads_neither_torch_nor_the_server() -> None:
    code = (
        "import sys\nfrom diptych.cli.main import main\nsys.argv = ['diptych', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code"
    )
    loaded = _modules_after(code)
    assert loaded.isdisjoint((*HEAVY, "numpy", "fastapi", "uvicorn", "pydantic", "tokenizers"))
