"""Typed look-ups in a parsed `config.json`; every error names the key, the file and what to do.

Knows: numbers, sections, and which keys were asked for. Does not know: files, models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

from diptych.domain.errors import SpecError


class ConfigReader:
    """One config, or one section of it; ``source`` names it in errors."""

    def __init__(self, config: Mapping[str, object], source: str) -> None:
        self._config = config
        self._asked: set[str] = set()
        self.source = source

    def get(self, key: str) -> object:
        """The value, or None."""
        self._asked.add(key)
        return self._config.get(key)

    def unread(self) -> tuple[str, ...]:
        """Keys of the config that nobody asked for, in its order."""
        return tuple(key for key in self._config if key not in self._asked)

    def section(self, key: str) -> ConfigReader | None:
        """A nested object, or None if it is not there."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise SpecError(f"{self.source}: {key!r} must be an object, not {value!r}")
        return ConfigReader(cast("Mapping[str, object]", value), f"{self.source} ({key})")

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number; without a default the key must be there."""
        value = self.get(key)
        value = default if value is None else value
        if value is None:
            raise SpecError(f"{self.source} lacks the key {key!r}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SpecError(f"{self.source}: {key!r} must be a number, not {value!r}")
        if not math.isfinite(value):
            raise SpecError(f"{self.source}: {key!r} must be finite, not {value!r}")
        return float(value)

    def integer(self, key: str, default: int | None = None) -> int:
        """A size, which is never zero."""
        value = self.number(key, default)
        if value != int(value):
            raise SpecError(f"{self.source}: {key!r} must be a whole number, not {value!r}")
        if value < 1:
            raise SpecError(f"{self.source}: {key!r} must be positive, not {value:g}")
        return int(value)

    def count(self, key: str, default: int = 0) -> int:
        """A count, which may be zero."""
        return 0 if self.get(key) == 0 else (self.integer(key) if self.get(key) is not None else default)

    def flag(self, key: str) -> bool:
        """Yes or no; no if the key is not there."""
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            raise SpecError(f"{self.source}: {key!r} must be true or false, not {value!r}")
        return bool(value)

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers; empty if the key is not there."""
        value = self.get(key)
        if value is None:
            return ()
        items = cast("list[object]", value) if isinstance(value, list) else [None]
        numbers = tuple(item for item in items if isinstance(item, int) and not isinstance(item, bool))
        if len(numbers) != len(items):
            raise SpecError(f"{self.source}: {key!r} must be a list of whole numbers, not {value!r}")
        return numbers

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty if the key is not there."""
        value = self.get(key)
        if value is None:
            return ()
        items = cast("list[object]", value) if isinstance(value, list) else [None]
        texts = tuple(item for item in items if isinstance(item, str))
        if len(texts) != len(items):
            raise SpecError(f"{self.source}: {key!r} must be a list of names, not {value!r}")
        return texts
