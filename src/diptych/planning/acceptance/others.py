"""T7, T12 and §12: fits of measured silicon, ratios over token latency, the motivating claims.

Knows: where the planner keeps them. Does not know: how they are made.
"""

from __future__ import annotations

from pathlib import Path

from diptych.planning.acceptance.row import By, Row, Sheet


def silicon(_data: Path) -> list[Row]:
    """T7."""
    return [Sheet("T7", By.DATA).absent("measured silicon rows", "not available: planning/fit/silicon.py")]


def ratios(_data: Path) -> list[Row]:
    """T12."""
    return [
        Sheet("T12", By.CLOSED).absent(
            "context : generation ratios", "not available: planning/closed/buzz.py"
        )
    ]


def claims(_data: Path) -> list[Row]:
    """§12."""
    return [
        Sheet("T12", By.CLOSED).absent("motivating claims (§12)", "not available: planning/closed/buzz.py")
    ]
