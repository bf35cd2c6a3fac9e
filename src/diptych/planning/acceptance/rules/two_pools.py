"""Rules of T3 for split engines: one queue of whole prompts before k prefill workers, then decode workers.

Knows: FCFS prefill in batches of at most 2,048 tokens (at least one prompt), decode with continuous batching,
the
decode worker with the fewest sequences. The handoff takes no time. Does not know: diptych's placement.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from math import inf

from diptych.planning.acceptance.rules.engine_fit import EngineFit
from diptych.planning.acceptance.rules.gaps import DecodeBatch, all_served
from diptych.planning.acceptance.rules.requests import Asked, Served

BATCH_TOKENS = 2048
"""Most tokens of one prefill batch (DistServe's default, 2024)."""


def serve_split(
    asked: Sequence[Asked], prefill: EngineFit, prefills: int, decode: EngineFit, decodes: int
) -> list[Served]:
    """What each request sees."""
    first_s = first_tokens(asked, prefill, prefills)
    served: list[Served | None] = [None] * len(asked)
    workers = [_DecodeWorker(decode, asked, served) for _ in range(decodes)]
    for request in sorted(range(len(asked)), key=lambda i: (first_s[i], i)):
        for worker in workers:
            worker.run(first_s[request])
        min(workers, key=_DecodeWorker.load).push(request, first_s[request])
    for worker in workers:
        worker.run(inf)
    return all_served(served)


def first_tokens(asked: Sequence[Asked], prefill: EngineFit, workers: int) -> list[float]:
    """When each prompt's batch ends."""
    free_s = [0.0] * workers
    ends_s = [0.0] * len(asked)
    head = 0
    while head < len(asked):
        start_s = max(heapq.heappop(free_s), asked[head].t_s)
        after = head + 1
        tokens = asked[head].input
        while after < len(asked) and asked[after].t_s <= start_s:
            tokens += asked[after].input
            if tokens > BATCH_TOKENS:
                break
            after += 1
        end_s = start_s + prefill.prefill_s([it.input for it in asked[head:after]])
        ends_s[head:after] = [end_s] * (after - head)
        heapq.heappush(free_s, end_s)
        head = after
    return ends_s


class _DecodeWorker:
    """A decode engine that is run up to a moment whenever something arrives. A sequence takes its prompt plus
    what
    it has made so far of the KV memory; the first in line waits until that fits."""

    def __init__(self, fit: EngineFit, asked: Sequence[Asked], served: list[Served | None]) -> None:
        self._fit = fit
        self._asked = asked
        self._batch = DecodeBatch(asked, served)
        self._line: deque[tuple[int, float]] = deque()
        self._now_s = 0.0

    def load(self) -> int:
        return self._batch.size + len(self._line)

    def push(self, request: int, t_s: float) -> None:
        if not self.load():
            self._now_s = max(self._now_s, t_s)
        self._line.append((request, t_s))

    def run(self, until_s: float) -> None:
        """All steps that begin up to ``until_s``."""
        while self.load() and self._now_s <= until_s:
            self._admit()
            if not self._batch.size:
                continue
            self._now_s += self._fit.decode_s(self._batch.size, self._batch.context_tokens)
            self._batch.step(self._now_s)

    def _admit(self) -> None:
        while self._line:
            request, first_s = self._line[0]
            needed = self._batch.context_tokens + self._asked[request].input + 1
            if self._batch.size and needed > self._fit.kv_tokens:
                return
            self._line.popleft()
            self._batch.join(request, first_s)
