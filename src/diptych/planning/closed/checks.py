"""Numbers that make no sense are refused by name.

Knows: ranges. Does not know: what the numbers mean.
"""

from __future__ import annotations

from math import inf

from diptych.domain.errors import SpecError


def positive(**values: float) -> None:
    """Raises `SpecError` for the first value that is not a finite number above 0."""
    for name, value in values.items():
        if not 0 < value < inf:
            raise SpecError(f"{name}: {value} is not possible; give a finite number above 0")


def not_negative(**values: float) -> None:
    """Raises `SpecError` for the first value that is not a finite number of at least 0."""
    for name, value in values.items():
        if not 0 <= value < inf:
            raise SpecError(f"{name}: {value} is not possible; give a finite number of at least 0")


def share(**values: float) -> None:
    """Raises `SpecError` for the first value outside 0 to 1."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise SpecError(f"{name}: {value} is not a share; give a number from 0 to 1")


def count(**values: int) -> None:
    """Raises `SpecError` for the first value below 1."""
    for name, value in values.items():
        if value < 1:
            raise SpecError(f"{name}: {value} is too few; give at least 1")
