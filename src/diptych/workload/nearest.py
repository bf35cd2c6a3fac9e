"""The valid word that a wrong one comes nearest to.

Knows: how many letters two words are apart. Does not know: what the words stand for.
"""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice with the fewest letters to change; None if each is more than half different."""
    ranked = sorted(
        (_distance(word.lower(), choice.lower()), abs(len(word) - len(choice)), choice) for choice in choices
    )
    if not ranked or ranked[0][0] > max(len(word), len(ranked[0][2])) / 2:
        return None
    return ranked[0][2]


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The end of an error message: the nearest choice, or all of them."""
    choices = tuple(choices)
    near = nearest(word, choices)
    return f"did you mean '{near}'?" if near else f"choose one of: {', '.join(choices)}"


def _distance(left: str, right: str) -> int:
    """Levenshtein's distance, with containment counted as near: `input` means `input_length`."""
    if left and right and (left in right or right in left):
        return 1 if left != right else 0
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]
