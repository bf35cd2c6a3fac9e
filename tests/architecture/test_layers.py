"""The layers hold: imports point down, the lower rows are pure, and nobody swallows errors.

What is allowed is written here once; everything else is a failure that names file and line.
"""

from __future__ import annotations

import ast
import sys

import pytest

from support.source import PACKAGE, Import, Source, dotted, packages, sources

ROWS: tuple[tuple[str, ...], ...] = (
    ("compiled",),
    ("domain", "builtin"),
    ("metrics", "workload", "performance"),
    ("scheduling", "orchestration"),
    ("kernels",),
    ("models", "transfer"),
    ("engine",),
    ("adapters",),
    ("runtime", "planning"),
    ("server", "bench"),
    ("cli",),
)
ROW_OF = {package: row for row, names in enumerate(ROWS) for package in names}
PURE_ROWS = ROWS[1:4]
"""Rows 0, 1 and 2. Below them is only what decides in which form they are loaded."""

PURE_STANDARD = frozenset(
    {
        "__future__",
        "abc",
        "array",
        "bisect",
        "collections",
        "contextlib",
        "dataclasses",
        "difflib",
        "enum",
        "fractions",
        "functools",
        "hashlib",
        "heapq",
        "itertools",
        "math",
        "operator",
        "re",
        "statistics",
        "types",
        "typing",
    }
)
PURE_MODULES = PURE_STANDARD | {"msgspec", "mypy_extensions", "pydantic"}
"""All that the pure rows may import beside each other: values and arithmetic."""

PURE_EXTRAS = {
    "domain": {"struct"},
    "metrics": {"prometheus_client"},
    "builtin": {"pathlib", "importlib"},
    "workload": {"random", "csv", "json", "datetime"},
    "performance": {"tomllib", "json", "datetime"},
}
"""Exceptions: hashing packs tokens into bytes; metrics speak Prometheus' text form; the built-in model is a
folder of files; workloads draw from a generator that is passed in and parse lines; the catalogue parses
text."""

TORCH_PACKAGES = frozenset({"kernels", "models", "transfer", "engine", "adapters"})
"""Where torch may be imported at all, besides the worker's own files in `runtime`."""

TORCH_FREE_FILES_OF_RUNTIME = ("runtime/__init__.py", "runtime/streams.py", "runtime/driver.py")

TORCH_FILES = {"cli/doctor.py": "says which kernels would be chosen here; loads torch when asked"}
"""Single files above them that may, with the reason."""

CLOCK_CALLS = frozenset(
    {
        "time.time",
        "time.time_ns",
        "time.monotonic",
        "time.monotonic_ns",
        "time.perf_counter",
        "time.perf_counter_ns",
        "datetime.now",
        "datetime.utcnow",
        "datetime.datetime.now",
        "datetime.datetime.utcnow",
    }
)
CLOCK_PACKAGES = frozenset({"runtime", "bench"})
"""These live in real time."""

CLOCK_FILES = {
    "engine/engine.py": "measures its own steps",
    "planning/simulate.py": "says how long a run took; nothing in virtual time depends on it",
    "server/wall.py": "dates of answers and of chat templates; no duration comes from it",
}
"""Single files beside them that may read a clock, with the reason."""

SWALLOWING_FILES = {
    "runtime/driver.py": "a core that breaks an invariant ends the service in order",
    "runtime/worker_main.py": "the last frame of a worker process: log, tell the head, exit",
    "server/boundary.py": "the last frame of a request: log, answer 500",
    "server/text/detokenize.py": "the tokenizers library raises plain `Exception` when it takes text back",
}
"""Process boundaries: files that may catch everything without raising again, with the reason."""


def _of(*wanted: str) -> list[Source]:
    return [source for source in sources() if source.package in wanted]


def _pure() -> list[Source]:
    return _of(*(name for row in PURE_ROWS for name in row))


def _package_of(imported: Import) -> str | None:
    parts = imported.module.split(".")
    return parts[1] if parts[0] == "diptych" and len(parts) > 1 and parts[1] in ROW_OF else None


def test_every_package_has_a_row() -> None:
    assert set(packages()) <= set(ROW_OF), "a new package needs a row in ROWS and in docs/architecture.md"


def test_imports_point_down() -> None:
    wrong = [
        f"{source.name}:{imported.line} imports {target}"
        for source in sources()
        if source.package
        for imported in source.imports()
        if (target := _package_of(imported)) and target != source.package
        if ROW_OF[target] >= ROW_OF[source.package]
    ]
    assert not wrong, "\n".join(wrong)


def test_the_root_of_the_package_imports_nothing_but_the_loader() -> None:
    wrong = [
        f"{source.name}:{imported.line} imports {imported.module}"
        for source in _of("")
        for imported in source.imports()
        if imported.module.startswith("diptych.") and source.name != "__main__.py"
        if not imported.module.startswith("diptych.compiled")
    ]
    assert not wrong, "\n".join(wrong)


def test_pure_rows_import_only_values_and_arithmetic() -> None:
    wrong = [
        f"{source.name}:{imported.line} imports {imported.module}"
        for source in _pure()
        for imported in source.imports()
        if (root := imported.module.split(".")[0]) != "diptych"
        if root not in PURE_MODULES | PURE_EXTRAS.get(source.package, set())
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_lower_right_rows_import_torch() -> None:
    wrong = [
        f"{source.name}:{imported.line} imports {imported.module}"
        for source in sources()
        if source.package not in TORCH_PACKAGES | {"runtime"} or source.name in TORCH_FREE_FILES_OF_RUNTIME
        if source.name not in TORCH_FILES
        for imported in source.imports()
        if imported.module.split(".")[0] in ("torch", "safetensors") and not imported.typing_only
    ]
    assert not wrong, "\n".join(wrong)


def test_clocks_are_read_in_real_time_packages_only() -> None:
    wrong = [
        f"{source.name}:{line} calls {name}"
        for source in sources()
        if source.package not in CLOCK_PACKAGES and source.name not in CLOCK_FILES
        for name, line in source.calls()
        if name in CLOCK_CALLS
    ]
    assert not wrong, "\n".join(wrong)


def test_clock_functions_are_not_imported_by_name() -> None:
    """``from time import monotonic`` would slip past the test above."""
    wrong = [
        f"{source.name}:{imported.line} imports {imported.module}"
        for source in sources()
        if source.name not in CLOCK_FILES
        for imported in source.imports()
        if imported.module in CLOCK_CALLS
    ]
    assert not wrong, "\n".join(wrong)


def test_nobody_pickles() -> None:
    wrong = [
        f"{source.name}:{imported.line} imports {imported.module}"
        for source in sources()
        for imported in source.imports()
        if imported.module.split(".")[0] in ("pickle", "cloudpickle", "dill", "marshal", "shelve")
    ]
    assert not wrong, "\n".join(wrong)


def _swallowing_handlers(source: Source) -> list[str]:
    return [
        f"{source.name}:{node.lineno} catches everything"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ExceptHandler) and _is_broad(node.type)
        if not isinstance(node.body[-1], ast.Raise)  # cleaning up and raising again swallows nothing
    ]


def _is_broad(caught: ast.expr | None) -> bool:
    match caught:
        case None:
            return True
        case ast.Tuple(elts=elements):
            return any(_is_broad(element) for element in elements)
        case _:
            return dotted(caught) in ("Exception", "BaseException", "builtins.Exception")


def test_errors_are_swallowed_nowhere() -> None:
    wrong = [
        line
        for source in sources()
        if source.name not in SWALLOWING_FILES
        for line in _swallowing_handlers(source)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "allowed", [TORCH_FILES, CLOCK_FILES, SWALLOWING_FILES], ids=["torch", "clock", "swallowing"]
)
def test_exceptions_to_the_rules_still_exist(allowed: dict[str, str]) -> None:
    assert [name for name in allowed if not (PACKAGE / name).exists()] == []
    assert all(allowed.values()), "every exception has a reason"


def test_every_package_says_what_it_knows_and_does_not_know() -> None:
    wrong: list[str] = []
    for package in packages():
        docstring = ast.get_docstring(Source(PACKAGE / package / "__init__.py").tree) or ""
        if "Knows" not in docstring or "Does not know" not in docstring:
            wrong.append(package)
    assert not wrong, f"no 'Knows' / 'Does not know' in the docstring of {wrong}"


def test_every_module_has_a_docstring() -> None:
    assert [source.name for source in sources() if not ast.get_docstring(source.tree)] == []


def test_pure_rows_never_iterate_a_set_literal_or_call() -> None:
    """Order of a set of strings differs from process to process: a decision must not depend on it."""
    wrong = [
        f"{source.name}:{node.iter.lineno}"
        for source in _pure()
        for node in ast.walk(source.tree)
        if isinstance(node, (ast.For, ast.comprehension)) and _is_set(node.iter)
    ]
    assert not wrong, "\n".join(wrong)


def _is_set(node: ast.expr) -> bool:
    return isinstance(node, (ast.Set, ast.SetComp)) or (
        isinstance(node, ast.Call) and dotted(node.func) in ("set", "frozenset")
    )


def test_pure_modules_are_of_the_standard_library_or_listed() -> None:
    """A spelling mistake in the list above would allow nothing and hide itself."""
    assert set(sys.stdlib_module_names) >= PURE_STANDARD
