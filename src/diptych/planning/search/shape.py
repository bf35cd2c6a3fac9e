"""A workload as closed forms see it: a few rows that stand for all requests, and moments.

Knows: arrivals, prefix reuse without a limit on memory. Does not know: hardware, time in a queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

from diptych.planning.search.draws import Draw
from diptych.workload.record import Arrival

ROWS = 64
"""Rows that stand for a workload: quantiles of the prompt length, each a real request."""


class Row(NamedTuple):
    """One request that stands for many."""

    new_tokens: int
    cached_tokens: int
    """Of its prompt, found in a cache that forgets nothing: a ceiling."""
    output_tokens: int


@dataclass(frozen=True)
class Shape:
    """All that the closed forms use. Tokens per request unless said otherwise."""

    rows: tuple[Row, ...]
    rate_rps: float
    """As the workload has it, before any scaling."""
    burstiness: float
    """Squared coefficient of variation of the gaps between arrivals; Poisson: 1."""
    input_tokens: float
    output_tokens: float
    new_tokens: float
    context_tokens: float
    """Mean context of a decoding sequence: longer outputs count more often."""
    resident_tokens: float
    """Mean tokens that a decoding sequence holds."""
    resident_variation: float
    """Squared coefficient of variation of those."""

    @property
    def cached_share(self) -> float:
        """Share of the prompt tokens that a cache without limit would find."""
        return 1.0 - self.new_tokens / self.input_tokens


def shape_of(draw: Draw) -> Shape:
    """The shape of these requests."""
    rows = _rows(draw.arrivals, draw.block_tokens)
    outputs = fmean(row.output_tokens for row in rows)
    weights = [float(row.output_tokens) for row in rows]
    total = sum(weights)
    held = [_held(row) for row in rows]
    context = sum(w * h for w, h in zip(weights, held, strict=True)) / total
    second = sum(w * h * h for w, h in zip(weights, held, strict=True)) / total
    return Shape(
        rows=_quantiles(rows),
        rate_rps=draw.rate_rps,
        burstiness=1.0 if draw.sessions else _burstiness([offer.start_s for offer in draw.offers]),
        input_tokens=fmean(row.new_tokens + row.cached_tokens for row in rows),
        output_tokens=outputs,
        new_tokens=fmean(row.new_tokens for row in rows),
        context_tokens=context,
        resident_tokens=context,
        resident_variation=max(0.0, second / (context * context) - 1.0),
    )


FILLED = 0.9
"""Share of its lasting population that a cluster holds when measuring begins."""


def filling_tokens(shape: Shape) -> float:
    """Steps after which a cluster that starts empty decodes `FILLED` of the sequences that it will hold: t
    with ``E[min(output, t)] = 0.9 · E[output]``. Long outputs make it longer than a mean stay."""
    outputs = sorted(row.output_tokens for row in shape.rows)
    wanted = FILLED * sum(outputs)
    done = 0.0
    for place, output in enumerate(outputs):
        rest = len(outputs) - place
        if done + rest * output >= wanted:
            return (wanted - done) / rest
        done += output
    return float(outputs[-1])


def _held(row: Row) -> float:
    """Mean context while it decodes."""
    return row.new_tokens + row.cached_tokens + row.output_tokens / 2


def _rows(arrivals: Sequence[Arrival], block_tokens: int) -> list[Row]:
    """Walk each request's ids until the first miss; at least one token of a prompt is always computed."""
    seen: set[int] = set()
    rows: list[Row] = []
    for arrival in arrivals:
        hits = 0
        for name in arrival.hash_ids:
            if name not in seen:
                break
            hits += 1
        seen.update(arrival.hash_ids)
        cached = min(hits * block_tokens, arrival.input_tokens - 1)
        rows.append(Row(arrival.input_tokens - cached, cached, arrival.output_tokens))
    return rows


def _quantiles(rows: list[Row]) -> tuple[Row, ...]:
    ordered = sorted(rows)
    if len(ordered) <= ROWS:
        return tuple(ordered)
    return tuple(ordered[(2 * i + 1) * len(ordered) // (2 * ROWS)] for i in range(ROWS))


def _burstiness(times_s: Sequence[float]) -> float:
    """Many sessions together are taken for Poisson."""
    gaps = [b - a for a, b in pairwise(times_s)]
    mean = fmean(gaps) if gaps else 0.0
    if mean <= 0:
        return 1.0
    return min(16.0, fmean((gap - mean) ** 2 for gap in gaps) / (mean * mean))
