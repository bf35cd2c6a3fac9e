"""How good is a pair? Four virtues with scores from 0 to 1, and their weights.

Knows: what each virtue is. Does not know: workers, how predictions come about.
"""

from __future__ import annotations

from typing import Final

TTFT_WEIGHT: Final = 0.45
"""Soon to the first token: the target (or, without one, the best of all) over the prediction."""

TPOT_WEIGHT: Final = 0.3
"""Even output for all who decode there: the target (or the best of all) over the prediction."""

ROOM_WEIGHT: Final = 0.15
"""Memory left on the decode worker: who is nearly full bounces sooner."""

LOCAL_WEIGHT: Final = 0.1
"""Cached blocks where they are read: each lease is a round trip and pins blocks of somebody else."""


def closeness(predicted_s: float, wanted_s: float) -> float:
    """1 for what is as wanted or better, else their ratio."""
    return 1.0 if predicted_s <= wanted_s else wanted_s / predicted_s


def total(ttft: float, tpot: float, room: float, local: float) -> float:
    """The four scores as one."""
    return TTFT_WEIGHT * ttft + TPOT_WEIGHT * tpot + ROOM_WEIGHT * room + LOCAL_WEIGHT * local
