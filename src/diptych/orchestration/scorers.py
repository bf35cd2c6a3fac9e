"""How good is a pair? Scores from 0 to 1, their weights, and the choice.

Knows: predictions of the pairs that are left. Does not know: why others were dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from diptych.domain.cluster import SloSpec
from diptych.orchestration.pairs import Pair


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the pair would mean for this request and for those that decode there."""

    pair: Pair
    ttft_s: float
    """Queue, uncached prefill, handoff."""
    tpot_s: float
    """Time per output token of those that decode on the pair's decode worker, this request included."""


class Scorer(Protocol):
    """One virtue. Weights of a profile sum to 1."""

    name: str
    weight: float

    def score(self, one: Prediction, everyone: Sequence[Prediction], slo: SloSpec, /) -> float:
        """0 (worst) to 1 (best)."""
        ...


class TtftScorer:
    """Soon to the first token: the target (or, without one, the best of all) over the prediction."""

    name = "ttft"
    weight = 0.45

    def score(self, one: Prediction, everyone: Sequence[Prediction], slo: SloSpec, /) -> float:
        """See `Scorer`."""
        return _close(one.ttft_s, slo.ttft_s or min(other.ttft_s for other in everyone))


class TpotScorer:
    """Even output for all who decode there: the target (or the best of all) over the prediction."""

    name = "tpot"
    weight = 0.3

    def score(self, one: Prediction, everyone: Sequence[Prediction], slo: SloSpec, /) -> float:
        """See `Scorer`."""
        return _close(one.tpot_s, slo.tpot_s or min(other.tpot_s for other in everyone))


class RoomScorer:
    """Memory left on the decode worker: who is nearly full bounces sooner."""

    name = "room"
    weight = 0.15

    def score(self, one: Prediction, _everyone: Sequence[Prediction], _slo: SloSpec, /) -> float:
        """See `Scorer`."""
        arena = one.pair.decode.info.arena
        return min(1.0, max(0.0, one.pair.decode_account.room_blocks(arena) / arena.blocks))


class LocalScorer:
    """Cached blocks where they are read: each lease is a round trip and pins blocks of somebody else."""

    name = "local"
    weight = 0.1

    def score(self, one: Prediction, _everyone: Sequence[Prediction], _slo: SloSpec, /) -> float:
        """See `Scorer`."""
        hits = one.pair.hits
        return len(hits.own) / len(hits.blocks) if hits.blocks else 1.0


class Picker(Protocol):
    """Chooses one of the scored pairs."""

    def pick(self, totals: Sequence[tuple[Pair, float]]) -> Pair:
        """The pair to use; ``totals`` is not empty."""
        ...


class HighestTotal:
    """The highest total; ties go to the first names."""

    def pick(self, totals: Sequence[tuple[Pair, float]]) -> Pair:
        """See `Picker`."""
        return min(totals, key=lambda it: (-it[1], it[0].prefill.worker_id, it[0].decode.worker_id))[0]


DEFAULT_SCORERS: tuple[Scorer, ...] = (TtftScorer(), TpotScorer(), RoomScorer(), LocalScorer())


def _close(predicted_s: float, wanted_s: float) -> float:
    return 1.0 if predicted_s <= wanted_s else wanted_s / predicted_s
