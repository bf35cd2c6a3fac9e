"""From samples of single steps to a profile, with what the profile leaves unexplained.

Knows: medians, least squares over two or three unknowns. Does not know: how samples were taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import TypeAlias

import msgspec

from diptych.bench.house.experiments import Beside, DecodeSample, PrefillSample, Samples
from diptych.domain.errors import ClusterError
from diptych.domain.fleet import DecodeFit, PrefillFit, ProfileSpec
from diptych.performance.steps import Chunk, FittedSteps

SPAN = 2.0
"""A row of a table is read off a straight line through the rows at up to so many times its count and down to
so small a share of it: single steps of a shared machine scatter by a fifth, and what they cost does not jump
from row to row."""

LEAST_FACTOR = 0.05
"""Of the factors of a mixed step: the decode's fixed part may vanish in the prompt's, but not be negative."""


Sample: TypeAlias = PrefillSample | DecodeSample


class Residual(msgspec.Struct, frozen=True, kw_only=True):
    """How far single steps lie from the profile: relative errors (measured over fitted, minus one)."""

    samples: int
    median: float
    median_absolute: float
    p90_absolute: float


class Fitted(msgspec.Struct, frozen=True, kw_only=True):
    """A profile and its residuals by kind of step."""

    profile: ProfileSpec
    residuals: dict[str, Residual]


def fit_profile(samples: Samples, *, kv_tokens: int, kv_bytes_per_token: int) -> Fitted:
    """The profile of a worker.

    Raises:
        ClusterError: too few samples of a kind that it needs.
    """
    prefill = samples.prefill
    if len({it.new_tokens for it in prefill}) < 2:
        raise ClusterError(
            "too few prompts were measured; give the cluster more KV memory or a longer context"
        )
    if not samples.decode:
        raise ClusterError("no decode step was measured; the cluster answered too few requests")
    base = ProfileSpec(
        prefill=_prefill(prefill),
        decode=(_decode(samples.decode),),
        kv_tokens=kv_tokens,
        kv_bytes_per_token=kv_bytes_per_token,
        dispatch_s=median(samples.dispatch_s) if samples.dispatch_s else 0.0,
        handoff_fixed_s=median(samples.handoff_s) if samples.handoff_s else 0.0,
    )
    steps = FittedSteps(base)
    changes: dict[str, float] = {}
    mixed = [it for beside in samples.beside for it in _at_usual_speed(beside, steps)]
    if mixed:
        changes["mixed_decode_factor"], changes["mixed_prefill_factor"] = _mixed(mixed, steps)
    profile = base.model_copy(update=changes)
    return Fitted(profile=profile, residuals=_residuals(samples, FittedSteps(profile)))


def _prefill(samples: Sequence[PrefillSample]) -> PrefillFit:
    """A table of whole prompts, and the slope of what stands before a chunk."""
    by_tokens: dict[int, list[float]] = {}
    for it in samples:
        if not it.cached_tokens:
            by_tokens.setdefault(it.new_tokens, []).append(it.seconds)
    rows = smoothed([(tokens, median(seconds)) for tokens, seconds in sorted(by_tokens.items())])
    bare = dict(rows)
    behind = [
        (2.0 * it.new_tokens * it.cached_tokens, it.seconds - bare[it.new_tokens])
        for it in samples
        if it.cached_tokens and it.new_tokens in bare
    ]
    return PrefillFit(by_tokens=rows, per_token2_s=max(0.0, _slope(behind)))


def _decode(samples: Sequence[DecodeSample]) -> DecodeFit:
    """One slope over the context for all batches, from each batch's own spread (relative: a large batch
    is not measured better than a small one), and a table of the rest."""
    batches = sorted({it.batch for it in samples})
    medians = {
        (batch, context): (median(it.context_tokens for it in group), median(it.seconds for it in group))
        for batch in batches
        for context, group in _by_context([it for it in samples if it.batch == batch]).items()
    }
    pairs: list[tuple[float, float]] = []
    for batch in batches:
        points = [point for (other, _), point in medians.items() if other == batch]
        x_mean = sum(x for x, _ in points) / len(points)
        y_mean = sum(y for _, y in points) / len(points)
        pairs += [((x - x_mean) / y_mean, (y - y_mean) / y_mean) for x, y in points]
    slope = max(0.0, _slope(pairs))
    rows = smoothed(
        [
            (
                batch,
                max(0.0, median(y - slope * x for (other, _), (x, y) in medians.items() if other == batch)),
            )
            for batch in batches
        ]
    )
    if len(rows) == 1:
        return DecodeFit(fixed_s=rows[0][1], per_context_token_s=slope)
    return DecodeFit(per_context_token_s=slope, by_batch=rows)


def _by_context(samples: Iterable[DecodeSample]) -> dict[int, list[DecodeSample]]:
    """Groups whose contexts differ by less than a tenth."""
    groups: dict[int, list[DecodeSample]] = {}
    for it in sorted(samples, key=lambda it: it.context_tokens):
        last = next(reversed(groups), None)
        if last is not None and it.context_tokens <= 1.25 * last + 64 * it.batch:
            groups[last].append(it)
        else:
            groups[it.context_tokens] = [it]
    return groups


def _mixed(samples: Sequence[PrefillSample], steps: FittedSteps) -> tuple[float, float]:
    """Factors of the decode's fixed part and of the prefill part, least squares over relative errors."""
    saa = sab = sbb = say = sby = 0.0
    for it in samples:
        (line,) = steps.decode_lines(it.decodes)
        a = line.fixed_s / it.seconds
        b = steps.step_s((Chunk(it.new_tokens, it.cached_tokens),), 0, 0) / it.seconds
        y = 1 - line.per_context_token_s * it.context_tokens / it.seconds
        saa, sab, sbb, say, sby = saa + a * a, sab + a * b, sbb + b * b, say + a * y, sby + b * y
    determinant = saa * sbb - sab * sab
    decode = (say * sbb - sby * sab) / determinant if determinant > 1e-12 else 1.0
    decode = max(LEAST_FACTOR, decode)
    return decode, max(LEAST_FACTOR, (sby - decode * sab) / sbb)


def _at_usual_speed(beside: Beside, steps: FittedSteps) -> list[PrefillSample]:
    """Its prompts as the machine would have computed them at the speed at which the profile was measured."""
    slower = _slower([*beside.prompts_alone, *beside.decodes_alone], steps)
    return [msgspec.structs.replace(it, seconds=it.seconds / slower) for it in beside.prompts]


def _slower(samples: Sequence[Sample], steps: FittedSteps) -> float:
    """Times as long as the profile says, altogether; 1 without any."""
    expected_s = sum(_expected(it, steps) for it in samples)
    return sum(it.seconds for it in samples) / expected_s if expected_s > 0 else 1.0


def _expected(it: Sample, steps: FittedSteps) -> float:
    if isinstance(it, DecodeSample):
        return steps.step_s((), it.batch, it.context_tokens)
    return steps.step_s((Chunk(it.new_tokens, it.cached_tokens),), it.decodes, it.context_tokens)


def _residuals(samples: Samples, steps: FittedSteps) -> dict[str, Residual]:
    kinds: dict[str, Sequence[Sample]] = {
        "prefill": samples.prefill,
        "decode": samples.decode,
        "mixed": [it for beside in samples.beside for it in beside.prompts],
    }
    return {kind: _residual(group, steps) for kind, group in kinds.items() if group}


def _residual(group: Sequence[Sample], steps: FittedSteps) -> Residual:
    errors = sorted(it.seconds / _expected(it, steps) - 1 for it in group)
    sizes = sorted(abs(error) for error in errors)
    return Residual(
        samples=len(errors),
        median=median(errors),
        median_absolute=median(sizes),
        p90_absolute=sizes[int(0.9 * (len(sizes) - 1))],
    )


def _slope(pairs: Sequence[tuple[float, float]]) -> float:
    """Least squares through the origin."""
    squares = sum(x * x for x, _ in pairs)
    return sum(x * y for x, y in pairs) / squares if squares > 0 else 0.0


def smoothed(rows: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """(count, seconds) by rising counts, each read off the line through its neighbours within `SPAN`: least
    squares over relative errors."""
    return tuple(
        (key, _on_line(key, [it for it in rows if key <= SPAN * it[0] and it[0] <= SPAN * key]))
        for key, _ in rows
    )


def _on_line(key: int, rows: Sequence[tuple[int, float]]) -> float:
    weights = [1 / max(seconds, 1e-9) ** 2 for _, seconds in rows]
    total = sum(weights)
    x_mean = sum(w * x for w, (x, _) in zip(weights, rows, strict=True)) / total
    y_mean = sum(w * y for w, (_, y) in zip(weights, rows, strict=True)) / total
    slope = _slope(
        [(w**0.5 * (x - x_mean), w**0.5 * (y - y_mean)) for w, (x, y) in zip(weights, rows, strict=True)]
    )
    return max(0.0, y_mean + slope * (key - x_mean))
