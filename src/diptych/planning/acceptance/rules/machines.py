"""Rules of T5: rigid pools of prompt and token machines, and mixed machines, with queues joined by load.

Knows: whom a request joins, what an iteration holds. Does not know: what the limits are, diptych's placement.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence

from diptych.planning.acceptance.rules.gaps import DecodeBatch, all_served
from diptych.planning.acceptance.rules.machine import MOST_SEQUENCES, Machine
from diptych.planning.acceptance.rules.requests import Asked, Served
from diptych.planning.acceptance.rules.two_pools import BATCH_TOKENS

HANDOFF_S = 0.005
"""KV from a prompt to a token machine (Splitwise's layer-wise transfer, H100, 2024)."""
MIXED_FACTOR = 1.1
"""An iteration with prompts and tokens takes the prompt's time so many times (splitwise-sim, 2024)."""


def serve_pools(
    asked: Sequence[Asked],
    prompt: Machine,
    prompts: int,
    token: Machine,
    tokens: int,
    *,
    overflow: int | None = None,
) -> list[Served]:
    """Prompts join the prompt machine with the fewest pending prompt tokens, decodes the token machine with
    the
    fewest sequences. With ``overflow``, a decode whose token machine would hold more than so many sequences
    goes to
    the prompt machine with the fewest sequences instead, which then runs mixed iterations."""
    return _Fleet(asked, [prompt] * prompts, [token] * tokens, overflow).run()


def serve_mixed(asked: Sequence[Asked], machine: Machine, machines: int) -> list[Served]:
    """Every machine does both, prompts first; a request joins the machine with the fewest pending prompt
    tokens, and
    of those with the fewest sequences."""
    return _Fleet(asked, [machine] * machines, [], 0).run()


class _Node:
    """One machine: a queue of prompts, a queue of decodes, one iteration at a time."""

    def __init__(self, machine: Machine, asked: Sequence[Asked], served: list[Served | None]) -> None:
        self.machine = machine
        self.pending_tokens = 0
        self.batch = DecodeBatch(asked, served)
        self.decodes: deque[tuple[int, float]] = deque()
        self.running: list[int] | None = None
        """Prompts of the iteration under way; None: idle."""
        self._asked = asked
        self._prompts: deque[int] = deque()

    @property
    def sequences(self) -> int:
        """That decode here or wait for it."""
        return self.batch.size + len(self.decodes)

    def add_prompt(self, request: int) -> None:
        self._prompts.append(request)
        self.pending_tokens += self._asked[request].input

    def start(self) -> float | None:
        """Compose the next iteration; its seconds, or None if there is nothing to do."""
        while self.decodes and self.batch.size < MOST_SEQUENCES:
            self.batch.join(*self.decodes.popleft())
        prompts, tokens = self._next_prompts()
        self.running = prompts
        if prompts:
            factor = MIXED_FACTOR if self.batch.size else 1.0
            return self.machine.prompt_s(tokens) * factor
        if self.batch.size:
            return self.machine.step_s(self.batch.size)
        self.running = None
        return None

    def finish(self, now_s: float) -> list[int]:
        """End of the iteration: one token for each sequence; the prompts that are done."""
        done, self.running = self.running or [], None
        if self.batch.size:
            self.batch.step(now_s)
        self.pending_tokens -= sum(self._asked[request].input for request in done)
        return done

    def _next_prompts(self) -> tuple[list[int], int]:
        chosen: list[int] = []
        tokens = 0
        while self._prompts:
            size = self._asked[self._prompts[0]].input
            if chosen and tokens + size > BATCH_TOKENS:
                break
            chosen.append(self._prompts.popleft())
            tokens += size
        return chosen, tokens


class _Fleet:
    """Machines and the events between them. ``overflow`` 0: every decode stays where its prompt ran."""

    def __init__(
        self, asked: Sequence[Asked], prompts: list[Machine], tokens: list[Machine], overflow: int | None
    ) -> None:
        self._asked = asked
        self._served: list[Served | None] = [None] * len(asked)
        self._prompts = [_Node(machine, asked, self._served) for machine in prompts]
        self._tokens = [_Node(machine, asked, self._served) for machine in tokens]
        self._overflow = overflow
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._made = 0

    def run(self) -> list[Served]:
        coming = 0
        while self._heap or coming < len(self._asked):
            if coming < len(self._asked) and (not self._heap or self._asked[coming].t_s <= self._heap[0][0]):
                self._arrive(coming)
                coming += 1
            else:
                t_s, _, act = heapq.heappop(self._heap)
                act(t_s)
        return all_served(self._served)

    def _arrive(self, request: int) -> None:
        node = min(self._prompts, key=lambda it: (it.pending_tokens, it.sequences))
        node.add_prompt(request)
        self._wake(node, self._asked[request].t_s)

    def _wake(self, node: _Node, now_s: float) -> None:
        if node.running is None:
            span_s = node.start()
            if span_s is not None:
                self._later(now_s + span_s, lambda t_s: self._iterated(node, t_s))

    def _iterated(self, node: _Node, now_s: float) -> None:
        for request in node.finish(now_s):
            if self._asked[request].output <= 1 or not self._tokens:
                node.decodes.append((request, now_s))
            else:
                self._later(now_s + HANDOFF_S, lambda t_s, it=request, s=now_s: self._decode(it, s, t_s))
        self._wake(node, now_s)

    def _decode(self, request: int, first_token_s: float, now_s: float) -> None:
        node = min(self._tokens, key=lambda it: it.sequences)
        if self._overflow is not None and node.sequences >= self._overflow:
            node = min(self._prompts, key=lambda it: (it.sequences, it.pending_tokens))
        node.decodes.append((request, first_token_s))
        self._wake(node, now_s)

    def _later(self, t_s: float, act: Callable[[float], None]) -> None:
        self._made += 1
        heapq.heappush(self._heap, (t_s, self._made, act))
