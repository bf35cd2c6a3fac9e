"""Seconds of one step of one worker: the only question that the simulator's clock and live placement ask of
hardware.

Knows: the `StepModel` question, and `FittedSteps` for measured profiles. Does not know: chips, policies,
clocks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, TypeAlias

from mypy_extensions import mypyc_attr

from diptych.domain.fleet import DecodeFit, PrefillFit, ProfileSpec, RatesSpec


class Chunk(NamedTuple):
    """The share of one prompt in a step."""

    new_tokens: int
    cached_tokens: int
    """Tokens before it whose KV is there."""


Chunks: TypeAlias = Sequence[tuple[int, int]]
"""Each a `Chunk`, or a pair like it."""


class Line:
    """``fixed_s + per_context_token_s · context_tokens``, context summed over the batch."""

    __slots__ = ("fixed_s", "per_context_token_s")

    def __init__(self, fixed_s: float, per_context_token_s: float) -> None:
        self.fixed_s = fixed_s
        self.per_context_token_s = per_context_token_s


@mypyc_attr(allow_interpreted_subclasses=True)
class StepModel(ABC):
    """A worker's speed. Every answer is finite and not negative; equal questions get equal answers.

    A base class and not a protocol, as `CostModel` and for its reason.
    """

    @property
    @abstractmethod
    def kv_tokens(self) -> int:
        """Tokens of KV that the worker holds."""

    @abstractmethod
    def step_s(self, chunks: Chunks, decodes: int, context_tokens: int) -> float:
        """Seconds of a step that computes ``chunks`` and one token for
        each of ``decodes`` sequences, which have ``context_tokens`` tokens before it altogether."""

    @abstractmethod
    def decode_lines(self, decodes: int) -> tuple[Line, ...]:
        """The step that only decodes, as a function of the context: the highest of these lines. So a run of
        steps over an unchanged batch has a closed form. Agrees with `step_s` for no chunks."""


@dataclass(frozen=True, slots=True)
class Table:
    """Straight lines between rows, and through the outer two beyond them (never below zero)."""

    keys: tuple[int, ...]
    values: tuple[float, ...]

    def at(self, key: float) -> float:
        """The value at ``key``."""
        i = min(max(bisect_right(self.keys, key), 1), len(self.keys) - 1)
        low, high = self.keys[i - 1], self.keys[i]
        share = (key - low) / (high - low)
        return max(0.0, self.values[i - 1] + share * (self.values[i] - self.values[i - 1]))


def table(rows: Sequence[tuple[int, float]]) -> Table:
    """A table from (key, value) rows by rising keys; at least two."""
    return Table(tuple(key for key, _ in rows), tuple(value for _, value in rows))


class FittedSteps(StepModel):
    """A `ProfileSpec` as a `StepModel`; its docstring has the formulas."""

    def __init__(self, profile: ProfileSpec) -> None:
        self._profile = profile
        fit: PrefillFit = profile.prefill
        self._overhead_s = profile.step_overhead_s
        self._mixed_decode_factor = profile.mixed_decode_factor
        self._mixed_prefill_factor = profile.mixed_prefill_factor
        self._fixed_s, self._token_s, self._token2_s = fit.fixed_s, fit.per_token_s, fit.per_token2_s
        self._prompt_table = table(profile.prefill.by_tokens) if profile.prefill.by_tokens else None
        self._batch_tables = [table(fit.by_batch) if fit.by_batch else None for fit in profile.decode]
        self._ranges = [fit.from_batch for fit in profile.decode]
        self._lines: dict[int, tuple[Line, ...]] = {}

    @property
    def kv_tokens(self) -> int:
        """See `StepModel`."""
        return self._profile.kv_tokens

    def step_s(self, chunks: Chunks, decodes: int, context_tokens: int) -> float:
        """See `StepModel`."""
        if not decodes:
            return self._prefill_s(chunks) if chunks else 0.0
        (line,) = self.decode_lines(decodes)
        context_s = line.per_context_token_s * context_tokens
        if not chunks:
            return line.fixed_s + context_s
        grown_s = self._prefill_s(chunks) - self._prefill_s(())
        fixed_s = self._mixed_decode_factor * line.fixed_s
        return fixed_s + context_s + self._mixed_prefill_factor * grown_s

    def decode_lines(self, decodes: int) -> tuple[Line, ...]:
        """See `StepModel`."""
        lines = self._lines.get(decodes)
        if lines is None:
            lines = self._lines[decodes] = (self._line(decodes),)
        return lines

    def _prefill_s(self, chunks: Chunks) -> float:
        tokens = squares = 0
        for new, cached in chunks:
            tokens += new
            squares += new * (new + 2 * cached)
        if self._prompt_table is not None:
            beyond_one = squares - tokens * tokens
            table_s = self._prompt_table.at(tokens) + self._token2_s * beyond_one if tokens else 0.0
            return self._overhead_s + max(0.0, table_s)
        return self._overhead_s + max(0.0, self._fixed_s + self._token_s * tokens + self._token2_s * squares)

    def _line(self, decodes: int) -> Line:
        i = bisect_right(self._ranges, decodes) - 1
        fit: DecodeFit = self._profile.decode[i]
        by_batch = self._batch_tables[i]
        tabled_s = by_batch.at(decodes) if by_batch is not None else 0.0
        fixed_s = self._overhead_s + fit.fixed_s + fit.per_sequence_s * decodes + tabled_s
        return Line(max(0.0, fixed_s), max(0.0, fit.per_context_token_s))


def steps_of_rates(rates: RatesSpec) -> FittedSteps:
    """Measured instance rates as a `StepModel`: the batch shares the tokens per second."""
    profile = ProfileSpec(
        prefill=PrefillFit(by_tokens=rates.prefill_s_by_tokens),
        decode=(DecodeFit(per_sequence_s=1.0 / rates.decode_tokens_per_s),),
        kv_tokens=rates.kv_tokens,
        kv_bytes_per_token=rates.kv_bytes_per_token,
        chips=rates.chips,
        cost_per_hour=rates.cost_per_hour,
    )
    return FittedSteps(profile)


# ---------------------------------------------------------------- runs of decode steps


def run_s(lines: Sequence[Line], decodes: int, context_tokens: int, steps: int) -> float:
    """Seconds of ``steps`` decode steps over an unchanged batch: the context grows by ``decodes`` each step.

    Closed form: each line gives an arithmetic series, and two lines change places at most once.
    """
    total_s, done = 0.0, 0
    while done < steps:
        line, until = _highest(lines, decodes, context_tokens + decodes * done, steps - done)
        first = context_tokens + decodes * done
        contexts = until * first + decodes * (until * (until - 1) // 2)
        total_s += until * line.fixed_s + line.per_context_token_s * contexts
        done += until
    return total_s


def steps_within(lines: Sequence[Line], decodes: int, context_tokens: int, limit: int, span_s: float) -> int:
    """How many of at most ``limit`` decode steps end within ``span_s``: the largest k with
    ``run_s(k) <= span_s``, by bisection over the closed form."""
    if run_s(lines, decodes, context_tokens, limit) <= span_s:
        return limit
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        if run_s(lines, decodes, context_tokens, middle) <= span_s:
            low = middle
        else:
            high = middle
    return low


def _highest(lines: Sequence[Line], decodes: int, context: int, limit: int) -> tuple[Line, int]:
    """The highest line at ``context`` and for how many steps (at least one, at most ``limit``) it stays
    so."""
    if len(lines) == 1:
        return lines[0], limit
    line = max(lines, key=lambda it: (it.fixed_s + it.per_context_token_s * context, it.per_context_token_s))
    crossing = inf
    for other in lines:
        steeper = other.per_context_token_s - line.per_context_token_s
        if steeper > 0:
            crossing = min(crossing, (line.fixed_s - other.fixed_s) / steeper)
    if crossing == inf:
        return line, limit
    return line, max(1, min(limit, int((crossing - context) // max(1, decodes)) + 1))
