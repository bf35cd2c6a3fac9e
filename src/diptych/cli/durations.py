"""Durations on the command line. Knows how people write them; does not know what they limit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from cyclopts import Token

_UNITS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "m": 60.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-z]*)")


def parse_seconds(text: str) -> float:
    """``0.5``, ``500ms`` or ``2m`` in seconds. Raises `ValueError` with a remedy."""
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None or found[2] not in _UNITS:
        raise ValueError(f"{text!r} is no duration; write it as 0.5, 500ms, 30s or 2m")
    return float(found[1]) * _UNITS[found[2]]


def seconds(_: Any, tokens: Sequence[Token]) -> float:
    """For `Parameter(converter=…)`."""
    return parse_seconds(tokens[0].value)
