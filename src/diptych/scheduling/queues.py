"""The sequences of one worker: those that wait and those that run. Knows their order; decides nothing."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator

from diptych.domain.request import Phase
from diptych.scheduling.fetching import Fetching
from diptych.scheduling.sequence import Sequence


class WaitingQueue:
    """Sequences by (priority, arrival, request id)."""

    def __init__(self) -> None:
        self._sequences: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    @property
    def head(self) -> Sequence | None:
        """Who is next."""
        return self._sequences[0] if self._sequences else None

    def push(self, sequence: Sequence) -> None:
        """Add at its place, which for an old request may be in front."""
        insort(self._sequences, sequence, key=lambda item: item.order)

    def pop(self) -> Sequence:
        """Take the head out."""
        return self._sequences.pop(0)

    def remove(self, sequence: Sequence) -> bool:
        """Take this one out; False if it is not here."""
        if sequence not in self._sequences:
            return False
        self._sequences.remove(sequence)
        return True


class Roster:
    """Every sequence of the worker: in one of two waiting queues, fetching, or running.

    Running sequences hold all blocks of their tokens, and so do those that fetch or have fetched their KV;
    others that wait hold none (at most a reservation).
    """

    def __init__(self) -> None:
        self.prefills = WaitingQueue()
        self.imports = WaitingQueue()
        self.fetching = Fetching()
        self.running: list[Sequence] = []

    def __iter__(self) -> Iterator[Sequence]:
        yield from self.prefills
        yield from self.imports
        yield from self.fetching.sequences.values()
        yield from self.running

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self.prefills) + len(self.imports) + len(self.fetching.sequences)

    @property
    def newest(self) -> Sequence:
        """The running sequence that is given back first: lowest priority, latest arrival."""
        return max(self.running, key=lambda item: item.order)

    def in_phase(self, phase: Phase) -> list[Sequence]:
        """Running sequences of one phase in order."""
        return sorted((item for item in self.running if item.phase is phase), key=lambda item: item.order)

    def remove(self, sequence: Sequence) -> None:
        """Take it out of wherever it is."""
        waited = self.prefills.remove(sequence) or self.imports.remove(sequence)
        if not waited and not self.fetching.remove(sequence):
            self.running.remove(sequence)
