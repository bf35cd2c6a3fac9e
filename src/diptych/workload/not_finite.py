"""Which number of a JSON line is none: NaN and the infinities, which Python writes though JSON has no word
for them.

Knows: JSON as Python reads it. Does not know: formats, lines, how a refusal is worded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import isfinite


def first_not_finite(text: str) -> tuple[str, str] | None:
    """Field and number, such as ``("calls[1].pause", "NaN")``; None if there is none, or other things are
    wrong with the text. A number beyond the largest float counts as infinite."""
    try:
        return next(_within(json.loads(text), ""), None)
    except (ValueError, RecursionError):
        return None


def _within(value: object, place: str) -> Iterator[tuple[str, str]]:
    match value:
        case float() if not isfinite(value):
            yield place.removeprefix("."), json.dumps(value)
        case dict():
            for key, inner in value.items():
                yield from _within(inner, f"{place}.{key}")
        case list():
            for index, inner in enumerate(value):
                yield from _within(inner, f"{place}[{index}]")
        case _:
            pass
