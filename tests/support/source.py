"""The source of the package as data, for tests about its structure.

Knows: files and syntax trees. Does not know: what is allowed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY / "src"
PACKAGE = SOURCE / "diptych"


@dataclass(frozen=True)
class Import:
    """One name of a module that a file imports, with the line."""

    module: str
    line: int
    typing_only: bool
    """Under ``if TYPE_CHECKING``: never executed."""
    top_level: bool
    """Executed when the file is imported."""


@dataclass(frozen=True)
class Source:
    """One file of the package."""

    path: Path

    @property
    def name(self) -> str:
        """Path below the package, as errors show it."""
        return self.path.relative_to(PACKAGE).as_posix()

    @property
    def package(self) -> str:
        """First folder below the package; empty for the files beside the folders."""
        parts = self.path.relative_to(PACKAGE).parts
        return parts[0] if len(parts) > 1 else ""

    @property
    def tree(self) -> ast.Module:
        """The parsed file."""
        return _parse(self.path)

    def imports(self) -> Iterator[Import]:
        """All imports, also those inside functions. Relative ones are given absolutely."""
        yield from _imports(self.tree, self.path, typing_only=False, top_level=True)

    def calls(self) -> Iterator[tuple[str, int]]:
        """Dotted name and line of every call whose target is a plain dotted name."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and (name := dotted(node.func)):
                yield name, node.lineno


def sources() -> list[Source]:
    """Every Python file of the package, in order of path."""
    return [Source(path) for path in sorted(PACKAGE.rglob("*.py"))]


def packages() -> list[str]:
    """The folders of the package that hold Python."""
    return sorted({source.package for source in sources()} - {""})


def dotted(node: ast.expr) -> str:
    """``a.b.c`` for a chain of attributes on a name, else an empty string."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr):
            owner = dotted(value)
            return f"{owner}.{attr}" if owner else ""
        case _:
            return ""


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _imports(node: ast.AST, path: Path, *, typing_only: bool, top_level: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import(names=names):
                for alias in names:
                    yield Import(alias.name, child.lineno, typing_only, top_level)
            case ast.ImportFrom():
                module = _absolute(child, path)
                for alias in child.names:
                    yield Import(f"{module}.{alias.name}", child.lineno, typing_only, top_level)
            case ast.If(test=test) if dotted(test).endswith("TYPE_CHECKING"):
                yield from _imports(child, path, typing_only=True, top_level=False)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                yield from _imports(child, path, typing_only=typing_only, top_level=False)
            case _:
                yield from _imports(child, path, typing_only=typing_only, top_level=top_level)


def _absolute(node: ast.ImportFrom, path: Path) -> str:
    if node.level == 0:
        return node.module or ""
    package = path.relative_to(SOURCE).with_suffix("").parts[: -node.level]
    return ".".join((*package, node.module) if node.module else package)
