"""The sequences of one worker: those that wait and those that run. Knows their order; decides nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from diptych.domain.request import Phase
from diptych.scheduling.decoding import Decodes, insert, take_out
from diptych.scheduling.fetching import Fetching
from diptych.scheduling.sequence import Sequence

# Bound once: a lookup in an enumeration costs several times as much as one of a constant, and these are made
# for every request.
_PREFILL: Final = Phase.PREFILL


class WaitingQueue:
    """Sequences by (priority, arrival, request id); only this class changes ``sequences``."""

    def __init__(self) -> None:
        self.sequences: list[Sequence] = []
        self.tokens = 0
        """Tokens of all of them that have to be computed."""

    @property
    def head(self) -> Sequence | None:
        """Who is next."""
        return self.sequences[0] if self.sequences else None

    def push(self, sequence: Sequence) -> None:
        """Add at its place, which for an old request may be in front."""
        insert(self.sequences, sequence)
        self.tokens += sequence.remaining

    def pop(self) -> Sequence:
        """Take the head out."""
        sequence = self.sequences.pop(0)
        self.tokens -= sequence.remaining
        return sequence

    def remove(self, sequence: Sequence) -> bool:
        """Take this one out; False if it is not here."""
        found = take_out(self.sequences, sequence)
        if found:
            self.tokens -= sequence.remaining
        return found


class Roster:
    """Every sequence of the worker: in one of two waiting queues, fetching, or running (in its prompt, or
    decoding).

    Running sequences hold all blocks of their tokens, and so do those that fetch or have fetched their KV;
    others that wait hold none (at most a reservation).
    """

    def __init__(self) -> None:
        self.prefills = WaitingQueue()
        self.imports = WaitingQueue()
        self.fetching = Fetching()
        self.prefilling: list[Sequence] = []
        """In order; only this class changes it."""
        self.decodes = Decodes()

    def __iter__(self) -> Iterator[Sequence]:
        yield from self.prefills.sequences
        yield from self.imports.sequences
        yield from self.fetching.sequences.values()
        yield from self.prefilling
        yield from self.decodes.sequences

    @property
    def waiting(self) -> int:
        """How many wait."""
        queued = len(self.prefills.sequences) + len(self.imports.sequences)
        return queued + len(self.fetching.sequences)

    @property
    def running(self) -> int:
        """How many run."""
        return len(self.prefilling) + len(self.decodes.sequences)

    @property
    def growing(self) -> int:
        """Running sequences that will ask for unreserved blocks."""
        prompts = sum(not (item.reserved_blocks or item.export_lease) for item in self.prefilling)
        return self.decodes.unreserved + prompts

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens that wait or are half done."""
        return self.prefills.tokens + sum(item.remaining for item in self.prefilling)

    @property
    def newest(self) -> Sequence:
        """The running sequence that is given back first: lowest priority, latest arrival."""
        last = self.prefilling[-1:] + self.decodes.sequences[-1:]
        return max(last, key=lambda item: item.order)

    def admit(self, sequence: Sequence) -> None:
        """It runs from now on."""
        sequence.running = True
        if sequence.phase is _PREFILL:
            insert(self.prefilling, sequence)
        else:
            self.decodes.join(sequence)

    def turn_to_decode(self, sequence: Sequence) -> None:
        """Its prompt is computed and its first token sampled."""
        take_out(self.prefilling, sequence)
        self.decodes.join(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take it out of wherever it is."""
        if not sequence.running:
            if not (self.prefills.remove(sequence) or self.imports.remove(sequence)):
                self.fetching.remove(sequence)
            return
        if not take_out(self.prefilling, sequence):
            self.decodes.leave(sequence)
        sequence.running = False
