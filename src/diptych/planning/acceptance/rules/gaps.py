"""Gaps between a request's tokens, out of the end times of an engine's decode steps.

Knows: that a sequence in the batch gets a token in every decode step. Does not know: engines.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from diptych.planning.acceptance.rules.requests import Asked, Served


class DecodeBatch:
    """Sequences of one engine that decode, all one token a step."""

    def __init__(self, asked: Sequence[Asked], served: list[Served | None]) -> None:
        self.size = 0
        self.context_tokens = 0
        self._asked = asked
        self._served = served
        self._ends: list[tuple[int, int, int, float]] = []
        self._times: list[float] = []

    def join(self, request: int, first_token_s: float) -> None:
        """Has its first token; takes part from the next step on."""
        asked = self._asked[request]
        if asked.output <= 1:
            ttft_s = first_token_s - asked.t_s
            self._served[request] = Served(ttft_s, None, None, ttft_s)
            return
        began = len(self._times)
        heapq.heappush(self._ends, (began + asked.output - 1, request, began, first_token_s))
        self.size += 1
        self.context_tokens += asked.input + 1

    def step(self, end_s: float) -> list[int]:
        """One token each, at ``end_s``. Who has ended."""
        self._times.append(end_s)
        self.context_tokens += self.size
        ended: list[int] = []
        while self._ends and self._ends[0][0] <= len(self._times):
            end, request, began, first_token_s = heapq.heappop(self._ends)
            self.size -= 1
            self.context_tokens -= self._asked[request].input + self._asked[request].output
            self._served[request] = self._account(request, first_token_s, began, end)
            ended.append(request)
        return ended

    def _account(self, request: int, first_token_s: float, began: int, end: int) -> Served:
        asked = self._asked[request]
        tokens = [first_token_s, *self._times[began:end]]
        worst_s = max(map(float.__sub__, tokens[1:], tokens[:-1]))
        mean_s = (tokens[-1] - first_token_s) / (asked.output - 1)
        return Served(first_token_s - asked.t_s, mean_s, worst_s, tokens[-1] - asked.t_s)


def all_served(served: Sequence[Served | None]) -> list[Served]:
    """Nobody may be missing."""
    found = [it for it in served if it is not None]
    assert len(found) == len(served), "a request was never served"
    return found
