"""The documents of the repository as data: links, code blocks, names of code.

Knows: Markdown, roughly. Does not know: what a document should say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from support.source import REPOSITORY

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")


def documents() -> list[Path]:
    """Every Markdown file of the repository that people are meant to read."""
    folders = ("docs", "benchmarks", "training")
    below = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.md")]
    return sorted([*REPOSITORY.glob("*.md"), *below])


def code_blocks(path: Path, language: str) -> list[str]:
    """Fenced blocks of one language."""
    return [body for tag, body in _FENCE.findall(path.read_text(encoding="utf-8")) if tag == language]


def prose(path: Path) -> str:
    """The document without its fenced blocks."""
    return _FENCE.sub("", path.read_text(encoding="utf-8"))


def links(path: Path) -> list[str]:
    """Targets of links that point into the repository, without their anchors."""
    targets = [target.partition("#")[0] for target in _LINK.findall(prose(path))]
    return [target for target in targets if target and "://" not in target]


def inline_code(path: Path) -> Iterator[str]:
    """Everything between single backticks outside of fenced blocks."""
    yield from _CODE.findall(prose(path))
