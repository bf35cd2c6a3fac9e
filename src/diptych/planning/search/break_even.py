"""Where the verdict would turn: link bandwidth, load, prompt length, TPOT target.

Knows: bisection over closed forms that are scaled to what simulation said at the given point. Does not know:
simulation. Each answer says that it is such an estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from diptych.planning.search.bounds import Bounds, Question
from diptych.planning.search.candidate import Candidate
from diptych.planning.search.engine import Engine
from diptych.planning.search.shape import Row, Shape
from diptych.planning.search.verdict import Leaders

POINTS = 9
"""Grid over the tried range in which a change of sign is looked for, before it is bisected."""

HALVINGS = 10
"""To a thousandth of a grid step."""


@dataclass(frozen=True)
class BreakEven:
    """One quantity at which split and unsplit serve the same."""

    quantity: str
    unit: str
    given: float
    low: float
    """The range tried."""
    high: float
    turns_at: float | None
    """None: never in the range tried."""
    words: str
    curve: tuple[tuple[float, float], ...]
    """(value, goodput of the best split or hybrid over the best unsplit)."""


@dataclass(frozen=True)
class Scaled:
    """Closed forms scaled to simulation: one factor for each way to serve."""

    engines: tuple[Engine, ...]
    question: Question
    leaders: Leaders
    split_factor: float
    unsplit_factor: float

    def ratio(self, question: Question) -> float | None:
        """Best split over best unsplit with counts and chunk sizes chosen anew; None: neither serves."""
        bounds = Bounds(self.engines, question)
        splits = bounds.splits()[:1]
        return self._over(splits, bounds.unsplit()[0])

    def ratio_as_they_are(self, question: Question, link_factor: float) -> float | None:
        """The same hardware and roles on another link."""
        rival = self._rival()
        if rival is None or rival.link is None:
            return 0.0
        link = rival.link.model_copy(
            update={"bandwidth_bytes_per_s": rival.link.bandwidth_bytes_per_s * link_factor}
        )
        moved = replace(rival, link=link)
        estimate = Bounds(self.engines, question).estimate(moved)
        return self._over([replace(moved, estimate=estimate)], self.leaders.baseline.candidate)

    def _over(self, splits: Sequence[Candidate], unsplit: Candidate) -> float | None:
        best = max((it.estimate.rate_rps for it in splits), default=0.0) * self.split_factor
        base = unsplit.estimate.rate_rps * self.unsplit_factor
        if base <= 0:
            return MOST_RATIO if best > 0 else None
        return min(MOST_RATIO, best / base)

    def _rival(self) -> Candidate | None:
        found = self.leaders.split or self.leaders.hybrid
        return None if found is None else found.candidate


MOST_RATIO = 10.0
"""A ratio is not told apart beyond this: one side serves next to nothing."""


def scaled(engines: Sequence[Engine], question: Question, leaders: Leaders) -> Scaled:
    """Factors from the leaders; engines of the leaders alone, since those decide."""
    used: dict[int, Engine] = {}
    for finalist in leaders.all:
        for pool in finalist.candidate.pools:
            used[id(pool.engine)] = pool.engine
    kept = tuple(engine for engine in engines if id(engine) in used)
    split = leaders.split or leaders.hybrid
    return Scaled(
        kept,
        question,
        leaders,
        split.ratio_to_estimate if split is not None else 1.0,
        leaders.unsplit.ratio_to_estimate,
    )


def break_evens(forms: Scaled) -> list[BreakEven]:
    """All of them."""
    return [link_turn(forms), load_turn(forms), prompt_turn(forms), tpot_turn(forms)]


def link_turn(forms: Scaled) -> BreakEven:
    """Bandwidth below which the split loses, its hardware as it is."""
    rival = forms.leaders.split or forms.leaders.hybrid
    if rival is None or rival.candidate.link is None:
        return BreakEven("link bandwidth", "GB/s", 0.0, 0.0, 0.0, None, "there is no split to link", ())
    given = rival.candidate.link.bandwidth_bytes_per_s / 1e9
    low, high = given / 1000, given * 10
    turn, curve = _search(
        lambda value: forms.ratio_as_they_are(forms.question, value / given), low, high, given
    )
    return _told("link bandwidth", "GB/s", given, low, high, turn, curve)


def prompt_turn(forms: Scaled) -> BreakEven:
    """Mean prompt length, all prompts scaled alike, at which it turns."""
    given = forms.question.shape.input_tokens
    low, high = given / 16, given * 8

    def ratio(value: float) -> float | None:
        shape = longer_prompts(forms.question.shape, value / given)
        return forms.ratio(replace(forms.question, shape=shape))

    turn, curve = _search(ratio, low, high, given)
    return _told("mean prompt length", "tokens", given, low, high, turn, curve)


def tpot_turn(forms: Scaled) -> BreakEven:
    """TPOT target at which it turns."""
    given = forms.question.targets.tpot_s
    low, high = given / 4, given * 8

    def ratio(value: float) -> float | None:
        return forms.ratio(replace(forms.question, targets=replace(forms.question.targets, tpot_s=value)))

    turn, curve = _search(ratio, low, high, given)
    return _told("TPOT target", "s", given, low, high, turn, curve)


def load_turn(forms: Scaled) -> BreakEven:
    """Load above which only one of the two meets the targets: the goodput of the other, as simulated."""
    base = forms.leaders.baseline
    rivals = [it for it in (forms.leaders.split, forms.leaders.hybrid) if it is not None and it.rate_rps > 0]
    given = forms.question.shape.rate_rps
    top = max([base.rate_rps, *(it.rate_rps for it in rivals)])
    if not rivals:
        words = f"never: no split serves; the unsplit up to {base.rate_rps:.3g} requests/s"
        return BreakEven("load", "requests/s", given, 0.0, top, None, words, ())
    rival = max(rivals, key=lambda it: it.rate_rps)
    less, more = sorted((rival, base), key=lambda it: it.rate_rps)
    words = (
        f"up to {less.rate_rps:.3g} requests/s both meet the targets and the split is not needed; from there "
        f"to {more.rate_rps:.3g} only the {more.candidate.kind} does"
    )
    return BreakEven("load", "requests/s", given, 0.0, top, less.rate_rps, words, ())


def longer_prompts(shape: Shape, factor: float) -> Shape:
    """All prompts ``factor`` times as long, cached parts too; outputs as they are."""
    rows = tuple(
        Row(max(1, round(row.new_tokens * factor)), round(row.cached_tokens * factor), row.output_tokens)
        for row in shape.rows
    )
    grown = (factor - 1.0) * shape.input_tokens
    context = shape.context_tokens + (factor - 1.0) * (shape.context_tokens - shape.output_tokens / 2)
    return replace(
        shape,
        rows=rows,
        input_tokens=shape.input_tokens + grown,
        new_tokens=shape.new_tokens * factor,
        context_tokens=max(1.0, context),
        resident_tokens=max(1.0, context),
    )


def longer_outputs(shape: Shape, factor: float) -> Shape:
    """All outputs ``factor`` times as long."""
    rows = tuple(row._replace(output_tokens=max(1, round(row.output_tokens * factor))) for row in shape.rows)
    context = shape.context_tokens + (factor - 1.0) * shape.output_tokens / 2
    return replace(
        shape,
        rows=rows,
        output_tokens=shape.output_tokens * factor,
        context_tokens=context,
        resident_tokens=context,
    )


# ---------------------------------------------------------------- search


def _search(
    ratio: Callable[[float], float | None], low: float, high: float, given: float
) -> tuple[float | None, tuple[tuple[float, float], ...]]:
    """The crossing of 1 nearest to ``given`` (by factor), and the curve on the grid where anything serves."""
    steps = [low * (high / low) ** (i / (POINTS - 1)) for i in range(POINTS)]
    curve = tuple((value, found) for value in steps if (found := ratio(value)) is not None)
    crossings = [(a, b) for a, b in pairwise(curve) if (a[1] >= 1.0) != (b[1] >= 1.0)]
    if not crossings:
        return None, curve
    a, b = min(crossings, key=lambda pair: max(pair[0][0] / given, given / pair[1][0]))
    return _bisect(ratio, a[0], b[0], a[1] >= 1.0), curve


def _bisect(ratio: Callable[[float], float | None], low: float, high: float, low_splits: bool) -> float:
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        if ((ratio(middle) or 0.0) >= 1.0) == low_splits:
            low = middle
        else:
            high = middle
    return (low * high) ** 0.5


def _told(
    quantity: str,
    unit: str,
    given: float,
    low: float,
    high: float,
    turn: float | None,
    curve: tuple[tuple[float, float], ...],
) -> BreakEven:
    side = "split" if curve and curve[-1][1] >= 1.0 else "unsplit"
    if not curve:
        words = f"nothing serves between {_figure(low)} and {_figure(high)} {unit}"
    elif turn is None:
        tried = f"{_figure(curve[0][0])} and {_figure(curve[-1][0])} {unit}"
        words = f"never between {tried}: the {side} serves more throughout"
    else:
        side = "split" if next(ratio for value, ratio in curve if value > turn) >= 1.0 else "unsplit"
        other = "unsplit" if side == "split" else "split"
        words = (
            f"at {_figure(turn)} {unit} (given: {_figure(given)}): below, the {other} serves more; above, "
            f"the {side}"
        )
    return BreakEven(quantity, unit, given, low, high, turn, words, curve)


def _figure(value: float) -> str:
    """Three digits, never as a power of ten."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
