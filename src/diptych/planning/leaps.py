"""How long many equal steps take: those that only decode in closed form, those with a chunk of a prompt one
by one.

Knows: cost models, what is steady. Does not know: schedulers, sequences, what the steps lead to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from typing import Final

from diptych.performance.steps import StepModel, run_s, steps_within
from diptych.planning.measure import Buckets
from diptych.scheduling import Steady

MOST_CHUNKS: Final = 64
"""So many steps of a long prompt are timed ahead: after a command in the middle the rest was for nothing."""


class Leap(ABC):
    """Steps under way that are all alike. ``slow``: factor on every step."""

    __slots__ = ("decodes", "prefills", "slow", "start_s", "steps")

    def __init__(self, start_s: float, steps: int, decodes: int, prefills: bool, slow: float) -> None:
        self.start_s = start_s
        self.steps = steps
        self.decodes = decodes
        self.prefills = prefills
        self.slow = slow

    @abstractmethod
    def run_s(self, steps: int) -> float:
        """Seconds of the first ``steps`` of them."""

    @abstractmethod
    def steps_within(self, span_s: float) -> int:
        """How many have ended ``span_s`` after the start."""

    @abstractmethod
    def add_gaps(self, itl: Buckets, done: int) -> None:
        """The gaps between the tokens of the first ``done`` steps, for each sequence that decodes."""


class DecodeLeap(Leap):
    """Steps that only decode: straight lines in the context, so an arithmetic series."""

    __slots__ = ("context_tokens", "lines")

    def __init__(self, start_s: float, steady: Steady, slow: float, model: StepModel) -> None:
        super().__init__(start_s, steady.steps, steady.decodes, False, slow)
        self.context_tokens = steady.context_tokens
        self.lines = model.decode_lines(steady.decodes)

    def run_s(self, steps: int) -> float:
        """See `Leap`."""
        return run_s(self.lines, self.decodes, self.context_tokens, steps) * self.slow

    def steps_within(self, span_s: float) -> int:
        """See `Leap`."""
        return steps_within(self.lines, self.decodes, self.context_tokens, self.steps, span_s / self.slow)

    def add_gaps(self, itl: Buckets, done: int) -> None:
        """See `Leap`."""
        if done > 1:
            last_s = self.run_s(done) - self.run_s(done - 1)
            itl.add_series(self.run_s(1), last_s, done - 1, self.decodes)


class ChunkLeap(Leap):
    """Steps in the middle of a prompt, beside which perhaps others decode. What a model says of a chunk need
    not be a straight line, so it is asked for each."""

    __slots__ = ("ends_s",)

    def __init__(self, start_s: float, steady: Steady, slow: float, model: StepModel) -> None:
        super().__init__(start_s, min(steady.steps, MOST_CHUNKS), steady.decodes, True, slow)
        self.ends_s: list[float] = [0.0]
        """When so many steps have ended, after the start."""
        span_s, cached, context = 0.0, steady.cached_tokens, steady.context_tokens
        for _ in range(self.steps):
            span_s += model.step_s([(steady.new_tokens, cached)], steady.decodes, context) * slow
            self.ends_s.append(span_s)
            cached += steady.new_tokens
            context += steady.decodes

    def run_s(self, steps: int) -> float:
        """See `Leap`."""
        return self.ends_s[steps]

    def steps_within(self, span_s: float) -> int:
        """See `Leap`."""
        return bisect_right(self.ends_s, span_s) - 1

    def add_gaps(self, itl: Buckets, done: int) -> None:
        """See `Leap`."""
        for number in range(1, done):
            itl.add(self.ends_s[number + 1] - self.ends_s[number], self.decodes)
