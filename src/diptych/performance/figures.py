"""A figure of hardware: a number that carries its unit, its source, its date and how far to trust it.

Knows: units and their factors, the three states of a figure (known, unknown, not supported). Does not know:
chips, files.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

import msgspec

from diptych.domain.errors import SpecError


class Confidence(StrEnum):
    """How far a figure can be trusted."""

    HIGH = "high"
    """Vendor's data sheet, or the system file of a tool that measures against it."""
    MEDIUM = "medium"
    """Vendor's figure with assumptions that the note names."""
    MEDIUM_LOW = "medium-low"
    """Vendor's announcement and secondary sources."""
    LOW = "low"
    """Press, estimate or computed."""


UNITS: dict[str, tuple[str, float]] = {
    "TFLOP/s": ("FLOP/s", 1e12),
    "GB": ("B", 1e9),
    "MB": ("B", 1e6),
    "MiB": ("B", 2.0**20),
    "GB/s": ("B/s", 1e9),
    "TB/s": ("B/s", 1e12),
    "Gbit/s": ("B/s", 1e9 / 8),
    "chips": ("chips", 1.0),
    "W": ("W", 1.0),
    "USD": ("USD", 1.0),
    "USD/h": ("USD/h", 1.0),
}
"""Units of the data files: base unit and factor to it. Prefixes are decimal, as vendors' sheets use them;
MiB is what `nvidia-smi` counts in."""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One known number."""

    value: float
    unit: str
    """A key of `UNITS`."""
    source: str
    date: str
    """When it was read there: `YYYY-MM`."""
    confidence: Confidence
    note: str = ""
    """Contradicting figures, derivations."""

    @property
    def base(self) -> float:
        """The number in FLOP/s, bytes, bytes/s, W, USD or USD/h."""
        return self.value * UNITS[self.unit][1]

    @property
    def base_unit(self) -> str:
        """The unit of `base`."""
        return UNITS[self.unit][0]

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit} ({self.source}, {self.date}, confidence {self.confidence})"


class NotSupported(msgspec.Struct, frozen=True, kw_only=True):
    """The hardware has no such unit: a fact, not a missing figure."""

    source: str
    date: str
    confidence: Confidence
    note: str = ""


Known: TypeAlias = Figure | None
"""A figure, or None: not published."""

Rate: TypeAlias = Figure | NotSupported | None
"""A figure, a format that the hardware does not have, or None: not published."""


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """One figure that is not published, and what cannot be said without it."""

    chip: str
    figure: str
    matters_for: str

    def __str__(self) -> str:
        return f"{self.chip}: {self.figure} is not published; it matters for {self.matters_for}"


class MissingFigure(SpecError):
    """An estimate needs a figure that is not published."""

    def __init__(self, missing: Missing, remedy: str) -> None:
        super().__init__(f"{missing}. {remedy}")
        self.missing = missing


class FormatNotSupported(SpecError):
    """The chip cannot compute in the wanted format."""
