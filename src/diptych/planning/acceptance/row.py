"""One line of the table: what was expected, what came out.

Knows: tolerances, statuses. Does not know: how a figure is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How a line came out. Only ``FAIL`` fails the run."""

    PASS = "pass"
    FAIL = "FAIL"
    SHOWN = "shown"
    """Beside the test: another rule, a published figure under other assumptions. Nothing is claimed."""
    ABSENT = "absent"
    """Could not be tried; the note says why."""


class By(StrEnum):
    """What made the obtained figure."""

    CLOSED = "closed form"
    RULES = "reference rules"
    PLANE = "control plane"
    DATA = "data"


@dataclass(frozen=True, slots=True)
class Row:
    """``expected`` and ``obtained`` are numbers where the test gives numbers."""

    test: str
    quantity: str
    expected: float | str
    obtained: float | str
    tolerance: str
    status: Status
    by: By
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Sheet:
    """Makes the rows of one test by one method."""

    test: str
    by: By

    def near(
        self,
        quantity: str,
        expected: float,
        obtained: float,
        *,
        relative: float = 0.0,
        absolute: float = 0.0,
        note: str = "",
    ) -> Row:
        """Passes within either tolerance."""
        slack = 1e-9 * max(1.0, abs(expected))
        good = abs(obtained - expected) <= max(relative * abs(expected), absolute) + slack
        parts = [f"±{100 * relative:g} %"] * (relative > 0) + [f"±{absolute:g}"] * (absolute > 0)
        tolerance = " or ".join(parts) or "exact"
        return self._row(quantity, expected, obtained, tolerance, good, note)

    def exact(self, quantity: str, expected: float | str, obtained: float | str, note: str = "") -> Row:
        """Passes if equal."""
        return self._row(quantity, expected, obtained, "exact", obtained == expected, note)

    def at_most(self, quantity: str, limit: float, obtained: float, note: str = "") -> Row:
        """Passes at or below ``limit``."""
        return self._row(quantity, f"≤ {limit:g}", obtained, "bound", obtained <= limit, note)

    def at_least(self, quantity: str, limit: float, obtained: float, note: str = "") -> Row:
        """Passes at or above ``limit``."""
        return self._row(quantity, f"≥ {limit:g}", obtained, "bound", obtained >= limit, note)

    def holds(self, quantity: str, statement: str, good: bool, obtained: str = "", note: str = "") -> Row:
        """Passes if a statement is true; ``obtained`` shows the figures behind it."""
        return self._row(quantity, statement, obtained or ("yes" if good else "no"), "true", good, note)

    def shown(self, quantity: str, expected: float | str, obtained: float | str, note: str) -> Row:
        """A figure beside the test, with the reason why it is no test."""
        return Row(self.test, quantity, expected, obtained, "–", Status.SHOWN, self.by, note)

    def absent(self, quantity: str, reason: str) -> Row:
        """Could not be tried."""
        return Row(self.test, quantity, "–", "–", "–", Status.ABSENT, self.by, reason)

    def _row(
        self,
        quantity: str,
        expected: float | str,
        obtained: float | str,
        tolerance: str,
        good: bool,
        note: str,
    ) -> Row:
        status = Status.PASS if good else Status.FAIL
        return Row(self.test, quantity, expected, obtained, tolerance, status, self.by, note)


def failures(rows: Sequence[Row]) -> list[Row]:
    """The lines that fail the run."""
    return [row for row in rows if row.status is Status.FAIL]
