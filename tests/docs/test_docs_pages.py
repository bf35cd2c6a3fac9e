"""Documents say what is so: links lead somewhere, named code exists, generated pages are fresh."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs.generate import pages

from diptych.cli.spec import has_key
from diptych.domain import errors, lifecycle
from support.documents import code_blocks, documents, inline_code, links, prose
from support.source import PACKAGE, REPOSITORY, dotted, packages

FOLDERS = ("src/", "tests/", "docs/", "benchmarks/", "training/")
SPEC_KEY = re.compile(r"^(model|kv|limits|slo)\.[a-z_]+$")

every_document = pytest.mark.parametrize(
    "path", documents(), ids=lambda path: str(path.relative_to(REPOSITORY))
)


@pytest.mark.parametrize("name", sorted(pages()))
def test_generated_pages_are_fresh(name: str) -> None:
    written = (REPOSITORY / "docs" / name).read_text(encoding="utf-8")
    assert written == pages()[name], "run `make docs`"


def test_the_lifecycle_page_shows_the_table() -> None:
    assert code_blocks(REPOSITORY / "docs" / "lifecycle.md", "mermaid") == [lifecycle.mermaid() + "\n"]


@every_document
def test_links_lead_somewhere(path: Path) -> None:
    assert [target for target in links(path) if not (path.parent / target).exists()] == []


@every_document
def test_named_files_and_symbols_exist(path: Path) -> None:
    """`path/file.py::Symbol.member` and plain paths into the repository."""
    named = [code for code in inline_code(path) if code.startswith(FOLDERS) and " " not in code]
    assert [code for code in named if not _exists(code)] == []


def _exists(code: str) -> bool:
    file, _, symbol = code.partition("::")
    target = REPOSITORY / file
    if "<" in file or "*" in file:
        return True
    if not symbol:
        return target.exists()
    return target.is_file() and symbol in set(_symbols(ast.parse(target.read_text(encoding="utf-8"))))


def _symbols(tree: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[str]:
    """Names that a module or class defines, with members as `Class.member`."""
    for node in tree.body:
        match node:
            case ast.ClassDef(name=name):
                yield prefix + name
                yield from _symbols(node, f"{prefix}{name}.")
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield prefix + name
            case ast.Assign(targets=targets):
                yield from (prefix + dotted(target) for target in targets)
            case ast.AnnAssign(target=target):
                yield prefix + dotted(target)
            case _:
                pass


@every_document
def test_named_spec_keys_exist(path: Path) -> None:
    keys = [code for code in inline_code(path) if SPEC_KEY.match(code)]
    assert [key for key in keys if not has_key(key)] == []


@every_document
def test_named_make_targets_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join([*inline_code(path), *code_blocks(path, "sh")])
    assert set(re.findall(r"^make ([a-z]+)", text, re.MULTILINE)) <= targets


@every_document
def test_no_path_of_one_machine(path: Path) -> None:
    assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users)/", path.read_text(encoding="utf-8"))


def test_error_codes_in_the_docs_exist() -> None:
    known = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code")}
    named = re.findall(r"`([a-z]+_[a-z_]+)` \(HTTP", prose(REPOSITORY / "docs" / "faults.md"))
    assert named
    assert set(named) <= known


def test_the_architecture_page_has_every_package() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [name for name in packages() if f"| `{name}` |" not in text] == []


def test_every_decision_is_numbered_and_complete() -> None:
    records = sorted((REPOSITORY / "docs" / "decisions").glob("[0-9]*.md"))
    assert [int(path.name[:4]) for path in records] == list(range(1, len(records) + 1))
    for path in records:
        text = path.read_text(encoding="utf-8")
        missing = [word for word in ("**Decided.**", "**Instead of**", "**Follows.**") if word not in text]
        assert not missing, f"{path.name} lacks {missing}"


def test_symbols_are_found_where_they_are() -> None:
    """The check above must be able to fail."""
    assert _exists("src/diptych/domain/lifecycle.py::advance")
    assert _exists("src/diptych/domain/step.py::StepPlan.tokens")
    assert not _exists("src/diptych/domain/lifecycle.py::retreat")
    assert not _exists("src/diptych/nowhere.py")
    assert PACKAGE.is_dir()
