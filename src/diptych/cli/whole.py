"""Whole numbers on the command line. Knows what a whole number looks like; does not know what it counts."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, isfinite
from typing import Any

from cyclopts import Token


def whole(_: Any, tokens: Sequence[Token]) -> int:
    """For `Parameter(converter=…)`: 2.5 is not cut to 2 in silence. Raises `ValueError` with a remedy."""
    text = tokens[0].value
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None
    if not isfinite(value):
        raise ValueError(f"{text} is not a whole number")
    if value != int(value):
        raise ValueError(f"{text} is not a whole number; the nearest are {floor(value)} and {ceil(value)}")
    return int(value)
