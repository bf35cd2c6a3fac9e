"""The hardware catalogue: chips by name.

Knows: names, aliases, and which known name a wrong one comes nearest to. Does not know: how the figures were
written down (`catalogue_text`), where the files lie (`diptych.planning.library`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping

from diptych.domain.errors import SpecError
from diptych.performance.chip import Chip


class Catalogue:
    """Chips by name. Look-ups ignore case, and take '-', '_', ' ', '.' and nothing for the same."""

    def __init__(self, chips: Iterable[Chip]) -> None:
        self._chips: dict[str, Chip] = {}
        self._by_name: dict[str, str] = {}
        for chip in chips:
            self._chips[chip.name] = chip
            for name in (chip.name, *chip.aliases):
                other = self._by_name.setdefault(plain_name(name), chip.name)
                if other != chip.name:
                    raise SpecError(f"catalogue: {name!r} names both {other} and {chip.name}")

    def __iter__(self) -> Iterator[Chip]:
        return iter(self._chips.values())

    def __len__(self) -> int:
        return len(self._chips)

    @property
    def names(self) -> tuple[str, ...]:
        """Canonical names, in the order of the files."""
        return tuple(self._chips)

    def chip(self, name: str) -> Chip:
        """The chip called ``name`` or aliased so.

        Raises:
            SpecError: no such chip; names the nearest ones.
        """
        found = self._by_name.get(plain_name(name))
        if found is None:
            known = {alias: chip.name for chip in self for alias in (chip.name, *chip.aliases)}
            raise SpecError(f"unknown hardware {name!r}; {nearest(name, known)}")
        return self._chips[found]


def plain_name(name: str) -> str:
    """What two spellings of one name have in common."""
    return re.sub(r"[^a-z0-9]+", "", name.casefold())


def nearest(name: str, known: Mapping[str, str]) -> str:
    """Words for an error: the canonical names whose spelling (key) comes nearest, or all of them."""
    plain = {plain_name(spelling): canonical for spelling, canonical in known.items()}
    close = difflib.get_close_matches(plain_name(name), plain, n=5, cutoff=0.5)
    names = tuple(dict.fromkeys(plain[match] for match in close))[:3]
    if names:
        return f"did you mean {' or '.join(names)}?"
    return f"known: {', '.join(dict.fromkeys(known.values()))}"
