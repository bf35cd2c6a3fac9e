"""The sequences that decode: in order, in lock-step, and what will happen to them when.

A *round* is a step in which they get one token each. How far they have come is kept once, as the number of
rounds, and what happens to one of them (its blocks are full, its output is at its limit) is kept by the round
after which it does. So a round costs what happens in it, not how many sequences there are; somebody who
looks at a sequence lets it `catch_up` first.

Knows: rounds, order, growth of each sequence. Does not know: steps, prompts, who is given back.
"""

from __future__ import annotations

from array import array
from bisect import insort
from heapq import heappop, heappush
from operator import attrgetter

from diptych.domain.errors import Bug
from diptych.domain.ids import TokenId
from diptych.scheduling.block_pool import BlockPool
from diptych.scheduling.holding import take_block
from diptych.scheduling.sequence import Sequence

by_order = attrgetter("order")
_Agenda = list[tuple[int, int, Sequence]]
"""A heap of (round, running number, sequence). Entries are not taken out when they become void."""


class Decodes:
    """``sequences`` and ``full`` (those that need a block before the next round) are in order, best first;
    only this class changes them."""

    def __init__(self) -> None:
        self.sequences: list[Sequence] = []
        self.full: list[Sequence] = []
        self.round = 0
        self.context_tokens = 0
        """KV tokens of all of them."""
        self.unreserved = 0
        """How many have no promise left: they grow from what is available."""
        self._filler = TokenId(0)
        self._stops: dict[TokenId, int] = {}
        self._dues: _Agenda = []
        self._ends: _Agenda = []
        self._numbered = 0

    # ------------------------------------------------------------ who

    def join(self, sequence: Sequence) -> None:
        """It decodes from the next round on."""
        sequence.round = self.round
        insert(self.sequences, sequence)
        self.context_tokens += sequence.computed
        self.unreserved += not sequence.reserved_blocks
        self._count_stops(sequence, 1)
        self._expect_end(sequence, self.round + sequence.limit - sequence.tokens)
        self._watch(sequence)

    def leave(self, sequence: Sequence) -> None:
        """It does not decode here any more; nobody will ask for its tokens."""
        if not take_out(self.sequences, sequence):
            raise Bug(f"{sequence.request_id} leaves the decodes and is not among them")
        take_out(self.full, sequence)
        self.context_tokens -= self.computed(sequence)
        self.unreserved -= not sequence.reserved_blocks
        self._count_stops(sequence, -1)

    def grow(self, sequence: Sequence, pool: BlockPool) -> bool:
        """Give a full one its next block. False: no room, nothing has changed."""
        promised = sequence.reserved_blocks
        if not take_block(sequence, pool):
            return False
        self.unreserved += promised == 1
        self.full.remove(sequence)
        self.catch_up(sequence)
        self._watch(sequence)
        return True

    # ------------------------------------------------------------ rounds

    def fill_with(self, token_id: TokenId) -> None:
        """Rounds from now on give this token to everyone who is not told otherwise. Raises `Bug` if it ends
        one of them."""
        if self._stops.get(token_id):
            raise Bug(f"token {token_id} ends a sequence and can't stand for others")
        if token_id != self._filler:
            for sequence in self.sequences:
                self.catch_up(sequence)
            self._filler = token_id

    def advance(self, rounds: int) -> None:
        """So many rounds for everyone; callers look at `filled` after each in which something is due."""
        self.round += rounds
        self.context_tokens += rounds * len(self.sequences)

    def advance_some(self, sequences: int) -> None:
        """One round for the first ``sequences`` only: it passes by the others."""
        if sequences < len(self.sequences):
            for sequence in self.sequences[sequences:]:
                self._hold_back(sequence)
        self.round += 1
        self.context_tokens += sequences

    def filled(self) -> list[Sequence]:
        """Those whose blocks have become full by now, in order; from now on they are in `full`."""
        agenda = self._dues
        if not agenda or agenda[0][0] > self.round:
            return []
        found = [item for due, _, item in _take(agenda, self.round) if item.running and item.due == due]
        found.sort(key=by_order)
        for sequence in found:
            self.catch_up(sequence)
            insert(self.full, sequence)
        return found

    def ended(self) -> list[Sequence]:
        """Those whose output has reached its limit by now."""
        agenda = self._ends
        if not agenda or agenda[0][0] > self.round:
            return []
        return [item for end, _, item in _take(agenda, self.round) if item.running and item.ends == end]

    def next_due(self) -> int | None:
        """The next round after which somebody's blocks are full."""
        agenda = self._dues
        while agenda:
            due, _, sequence = agenda[0]
            if sequence.running and sequence.due == due:
                return due
            heappop(agenda)
        return None

    def next_end(self) -> int | None:
        """The next round after which somebody's output is at its limit."""
        agenda = self._ends
        while agenda:
            ends, _, sequence = agenda[0]
            if sequence.running and sequence.ends == ends:
                return ends
            heappop(agenda)
        return None

    def room(self, sequence: Sequence) -> int:
        """Rounds before it needs a block."""
        return max(0, sequence.due - self.round)

    # ------------------------------------------------------------ looking at one

    def among_first(self, sequence: Sequence, count: int) -> bool:
        """Whether it is one of the ``count`` best."""
        sequences = self.sequences
        return any(sequences[place] is sequence for place in range(min(count, len(sequences))))

    def computed(self, sequence: Sequence) -> int:
        """Its KV tokens as of now."""
        return sequence.computed + self.round - sequence.round

    def catch_up(self, sequence: Sequence) -> None:
        """Write down the rounds since it was last looked at; tokens that nobody named are the filler."""
        sequence.computed += self.round - sequence.round
        sequence.round = self.round
        missing = sequence.computed + 1 - sequence.tokens
        if missing > 0:
            sequence.output.extend(array("I", (self._filler,)) * missing)

    def check(self) -> None:
        """Raise `Bug` unless the sums are right and everyone's next moment is on the agenda."""
        if self.context_tokens != sum(map(self.computed, self.sequences)):
            raise Bug(f"{self.context_tokens} context tokens are not what the sequences have")
        if self.unreserved != sum(not sequence.reserved_blocks for sequence in self.sequences):
            raise Bug(f"{self.unreserved} sequences without a promise are counted")
        dues = {(due, sequence.request_id) for due, _, sequence in self._dues}
        ends = {(end, sequence.request_id) for end, _, sequence in self._ends}
        for sequence in self.sequences:
            left = sequence.capacity - self.computed(sequence)
            name = sequence.request_id
            if left < 0 or (left == 0) != (sequence in self.full) or left != self.room(sequence):
                raise Bug(f"{name} has blocks for {left} more tokens")
            if left and (sequence.due, name) not in dues:
                raise Bug(f"nobody will notice that {name} is full")
            if sequence.ends - self.round != sequence.limit - self.computed(sequence) - 1:
                raise Bug(f"{name} would end after round {sequence.ends}")
            if (sequence.ends, name) not in ends:
                raise Bug(f"nobody will notice that {name} ends")

    # ------------------------------------------------------------ inside

    def _count_stops(self, sequence: Sequence, count: int) -> None:
        for token_id in sequence.stops:
            self._stops[token_id] = self._stops.get(token_id, 0) + count

    def _watch(self, sequence: Sequence) -> None:
        left = sequence.capacity - sequence.computed
        if left > 0:
            self._expect_full(sequence, self.round + left)
        else:
            sequence.due = self.round
            insert(self.full, sequence)

    def _hold_back(self, sequence: Sequence) -> None:
        """The next round is none for it: everything happens one round later."""
        self.catch_up(sequence)
        sequence.round += 1
        self._expect_end(sequence, sequence.ends + 1)
        if sequence not in self.full:
            self._expect_full(sequence, sequence.due + 1)

    def _expect_full(self, sequence: Sequence, due: int) -> None:
        sequence.due = due
        self._numbered += 1
        heappush(self._dues, (due, self._numbered, sequence))

    def _expect_end(self, sequence: Sequence, ends: int) -> None:
        sequence.ends = ends
        self._numbered += 1
        heappush(self._ends, (ends, self._numbered, sequence))


def _take(agenda: _Agenda, until: int) -> list[tuple[int, int, Sequence]]:
    """All entries up to this round, the void ones too."""
    entries: list[tuple[int, int, Sequence]] = []
    while agenda and agenda[0][0] <= until:
        entries.append(heappop(agenda))
    return entries


def take_out(sequences: list[Sequence], sequence: Sequence) -> bool:
    """Whether it was there. (`list.remove` asks each whether it is equal, which costs ten times as much.)"""
    for place in range(len(sequences)):
        if sequences[place] is sequence:
            del sequences[place]
            return True
    return False


def insert(sequences: list[Sequence], sequence: Sequence) -> None:
    """Put it at its place; mostly that is the end, since later arrivals come later."""
    if not sequences or sequences[-1].order < sequence.order:
        sequences.append(sequence)
    else:
        insort(sequences, sequence, key=by_order)
