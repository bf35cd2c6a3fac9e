"""One statement of a test: what was expected, what came out.

Knows: the form. Does not know: any test.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["required", "wanted", "shown"]


class Checked(NamedTuple):
    """``passed`` is None for a figure that is only shown."""

    name: str
    expected: float | str
    obtained: float | str
    tolerance: str
    passed: bool | None
    kind: Kind = "required"
    note: str = ""


def near(
    name: str,
    expected: float,
    obtained: float,
    *,
    relative: float = 0.0,
    absolute: float = 0.0,
    note: str = "",
) -> Checked:
    """Within either tolerance."""
    good = abs(obtained - expected) <= max(relative * abs(expected), absolute)
    parts = [f"±{relative:.0%}"] * (relative > 0) + [f"±{absolute:g}"] * (absolute > 0)
    return Checked(name, expected, obtained, " or ".join(parts) or "exact", good, note=note)


def at_most(name: str, limit: float, obtained: float, kind: Kind = "required", note: str = "") -> Checked:
    """At or below ``limit``."""
    return Checked(name, f"≤ {limit:g}", obtained, "bound", obtained <= limit, kind, note)


def holds(name: str, statement: str, good: bool, obtained: str, note: str = "") -> Checked:
    """A statement, and the figures behind it."""
    return Checked(name, statement, obtained, "true", good, note=note)


def shown(name: str, obtained: float | str, note: str, expected: float | str = "–") -> Checked:
    """A figure beside the test."""
    return Checked(name, expected, obtained, "–", None, "shown", note)
