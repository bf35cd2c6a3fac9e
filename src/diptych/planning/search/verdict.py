"""The verdict: split, do not split, hybrid or undecided, with the numbers that decide.

Knows: intervals, thresholds, words. Does not know: how the numbers came about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diptych.planning.search.finalist import Finalist, Interval, gain, paired_ratio
from diptych.planning.search.targets import BudgetUnit

Decision = Literal["split", "do not split", "hybrid", "undecided"]

WORTHWHILE = 1.02
"""A split whose gain is surely below this is not worth two pools and a link."""


@dataclass(frozen=True)
class Leaders:
    """The best finalist of each kind, by simulation over all seeds."""

    unsplit: Finalist
    split: Finalist | None
    hybrid: Finalist | None
    equal_hardware: Finalist | None = None
    """The best split's hardware without the split, where that is not all of one kind."""

    @property
    def baseline(self) -> Finalist:
        """The stronger of the two ways not to split."""
        other = self.equal_hardware
        return other if other is not None and other.rate_rps > self.unsplit.rate_rps else self.unsplit

    @property
    def all(self) -> tuple[Finalist, ...]:
        """Those that exist."""
        return tuple(
            it for it in (self.unsplit, self.split, self.hybrid, self.equal_hardware) if it is not None
        )


@dataclass(frozen=True)
class Verdict:
    """What to do, why, and how sure that is."""

    decision: Decision
    words: str
    ratio: Interval | None
    """Goodput of the best split or hybrid over the unsplit baseline, seed by seed."""
    binds: str
    """What stops the best candidate from serving more."""
    reason: str
    gains: dict[str, float | None]
    """Best split or hybrid over the baseline per chip, per watt and per dollar, all hardware counted."""
    chosen: Finalist


def decide(leaders: Leaders) -> Verdict:
    """The verdict on these leaders."""
    base = leaders.baseline
    rivals = [it for it in (leaders.split, leaders.hybrid) if it is not None and it.rate_rps > 0]
    if not rivals:
        return _no_rival(leaders)
    rival = _rival(rivals)
    ratio = paired_ratio(rival, base)
    decision = _decision(rival, ratio)
    chosen = (
        base if decision == "do not split" else rival if decision != "undecided" else _better(rival, base)
    )
    units: tuple[BudgetUnit, ...] = ("devices", "watts", "money")
    return Verdict(
        decision=decision,
        words=_words(decision, rival, base, ratio),
        ratio=ratio,
        binds=chosen.candidate.estimate.binds,
        reason=_reason(rival, base),
        gains={unit: gain(rival, base, unit) for unit in units},
        chosen=chosen,
    )


def _rival(rivals: list[Finalist]) -> Finalist:
    """The best; of a split and a hybrid that cannot be told apart the split, which is simpler."""
    best = max(rivals, key=lambda it: it.rate_rps)
    split = next((it for it in rivals if it.candidate.kind == "split"), None)
    if split is None or split is best:
        return best
    ratio = paired_ratio(best, split)
    return split if ratio is not None and (ratio.low is None or ratio.low <= 1.0) else best


def _decision(rival: Finalist, ratio: Interval | None) -> Decision:
    kind: Decision = "hybrid" if rival.candidate.kind == "hybrid" else "split"
    if ratio is None or ratio.low is None or ratio.high is None:
        return kind  # the baseline serves nothing within the targets
    if ratio.low > 1.0 and ratio.mean >= WORTHWHILE:
        return kind
    if ratio.high < 1.0 or (ratio.mean < 1.0 and ratio.high < WORTHWHILE) or ratio.high < WORTHWHILE:
        return "do not split"
    return "undecided"


def _better(one: Finalist, other: Finalist) -> Finalist:
    return one if one.rate_rps > other.rate_rps else other


def _no_rival(leaders: Leaders) -> Verdict:
    base = leaders.baseline
    words = (
        f"Do not split: no split of this budget meets the targets, the unsplit {base.candidate.name} serves "
        f"{base.rate_rps:.3g} requests/s."
    )
    reason = "no pair of pools fits the budget, or no path between them is known"
    if leaders.split is not None:
        reason = f"the best split stops at 0: {leaders.split.candidate.estimate.binds}"
    return Verdict("do not split", words, None, base.candidate.estimate.binds, reason, {}, base)


def _words(decision: Decision, rival: Finalist, base: Finalist, ratio: Interval | None) -> str:
    numbers = (
        f"{rival.candidate.name} serves {_rate(rival)} requests/s within the targets, the unsplit baseline "
        f"{base.candidate.name} {_rate(base)}"
    )
    if ratio is None or ratio.low is None or ratio.high is None:
        return f"{decision.capitalize()}: {numbers}."
    change = f"{100 * (ratio.mean - 1):+.0f} % (95 % interval {100 * (ratio.low - 1):+.0f} to "
    change += f"{100 * (ratio.high - 1):+.0f} %, {ratio.samples} seeds)"
    if decision == "undecided":
        return f"Undecided: {numbers}: {change}. The interval holds both answers; more --seeds may decide."
    return f"{decision.capitalize()}: {numbers}: {change}."


def _rate(finalist: Finalist) -> str:
    found = finalist.goodput
    if found.low is None or found.high is None:
        return f"{found.mean:.3g}"
    return f"{found.mean:.3g} ({max(0.0, found.low):.3g}–{found.high:.3g})"


def _reason(rival: Finalist, base: Finalist) -> str:
    """What binds on either side, with the use that shows it."""
    return (
        f"the {rival.candidate.kind} is bound by {rival.candidate.estimate.binds}{_use(rival)}; the unsplit "
        f"baseline by {base.candidate.estimate.binds}{_use(base)}"
    )


def _use(finalist: Finalist) -> str:
    at = finalist.at
    if at is None:
        return ""
    busy = ", ".join(f"{name} {share:.0%} busy" for name, share in at.utilisation.items())
    memory = ", ".join(f"{name} {share:.0%}" for name, share in at.kv_peak.items())
    return f" ({busy}; KV at most {memory})"
