"""Rules of T8: vLLM's scheduler of one engine, v1 (0.19), without prefix reuse.

Knows: running first, in order of admission, decodes and chunks alike; a budget of tokens; blocks of 16; a
whole
prompt's blocks on admission; the newest is preempted, goes to the head of the line and computes everything
again; no
admission in a step that preempted. Does not know: diptych's scheduler.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from diptych.performance.steps import Chunk, StepModel
from diptych.planning.acceptance.rules.gaps import all_served
from diptych.planning.acceptance.rules.requests import Asked, Served

BUDGET_TOKENS = 2048
BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Replayed:
    """What the replay showed."""

    served: list[Served]
    makespan_s: float
    most_running: int
    preemptions: int


@dataclass(slots=True, eq=False)
class _Sequence:
    request: int
    prompt: int
    wanted: int
    computed: int = 0
    made: int = 0
    blocks: int = 0
    first_s: float = 0.0
    planned: int = 0
    """Tokens of the step under way."""

    @property
    def length(self) -> int:
        return self.prompt + self.made


class _Engine:
    def __init__(self, asked: Sequence[Asked], model: StepModel, most_running: int) -> None:
        self.now_s = 0.0
        self.most_running = self.preemptions = 0
        self.served: list[Served | None] = [None] * len(asked)
        self._asked = asked
        self._model = model
        self._seats = most_running
        self._free = model.kv_tokens // BLOCK_TOKENS
        self._line: deque[_Sequence] = deque()
        self._running: list[_Sequence] = []
        self._coming = 0

    def run(self) -> None:
        while self._coming < len(self._asked) or self._line or self._running:
            if not self._line and not self._running:
                self.now_s = max(self.now_s, self._asked[self._coming].t_s)
            while self._coming < len(self._asked) and self._asked[self._coming].t_s <= self.now_s:
                it = self._asked[self._coming]
                self._line.append(_Sequence(self._coming, it.input, it.output))
                self._coming += 1
            self._step()

    def _step(self) -> None:
        for sequence in self._running:
            sequence.planned = 0
        budget, preempted = self._plan_running()
        if not preempted:
            self._admit(budget)
        self.most_running = max(self.most_running, len(self._running))
        chunks: list[Chunk] = []
        decodes = context = 0
        for it in self._running:
            if it.planned == 1 and it.made:
                decodes += 1
                context += it.computed
            elif it.planned:
                chunks.append(Chunk(it.planned, it.computed))
        self.now_s += self._model.step_s(chunks, decodes, context)
        for it in list(self._running):
            self._advance(it)

    def _plan_running(self) -> tuple[int, bool]:
        budget, before = BUDGET_TOKENS, self.preemptions
        place = 0
        while place < len(self._running) and budget > 0:
            it = self._running[place]
            new = min(it.length - it.computed, budget)
            if not self._room(it, it.computed + new):
                break
            it.planned = new
            budget -= new
            place += 1
        return budget, self.preemptions > before

    def _room(self, it: _Sequence, tokens: int) -> bool:
        """Blocks for so many tokens, taken from the newest if need be; False if that is ``it`` itself."""
        needed = -(-tokens // BLOCK_TOKENS) - it.blocks
        while needed > self._free:
            newest = self._running.pop()
            self.preemptions += 1
            self._free += newest.blocks
            newest.blocks = newest.computed = newest.planned = 0
            self._line.appendleft(newest)
            if newest is it:
                return False
        if needed > 0:
            self._free -= needed
            it.blocks += needed
        return True

    def _admit(self, budget: int) -> None:
        while self._line and budget > 0 and len(self._running) < self._seats:
            it = self._line[0]
            needed = -(-it.length // BLOCK_TOKENS)
            if needed > self._free:
                return
            self._line.popleft()
            self._free -= needed
            it.blocks = needed
            it.planned = min(it.length, budget)
            budget -= it.planned
            self._running.append(it)

    def _advance(self, it: _Sequence) -> None:
        it.computed += it.planned
        if not it.planned or it.computed < it.length:
            return
        it.made += 1
        if it.made == 1:
            it.first_s = self.now_s
        if it.made == it.wanted:
            asked = self._asked[it.request]
            gap_s = (self.now_s - it.first_s) / (it.wanted - 1) if it.wanted > 1 else None
            self.served[it.request] = Served(it.first_s - asked.t_s, gap_s, None, self.now_s - asked.t_s)
            self._running.remove(it)
            self._free += it.blocks


def replay(asked: Sequence[Asked], model: StepModel, most_running: int) -> Replayed:
    """To the end of the last request."""
    engine = _Engine(asked, model, most_running)
    engine.run()
    return Replayed(all_served(engine.served), engine.now_s, engine.most_running, engine.preemptions)
