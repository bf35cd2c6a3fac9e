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


PROMISING = 1.05
"""A mean gain of a split that leaves the question open although its interval holds 1."""

TOLD_WAIT = 0.2
"""Share of TTFT from which on waiting for decode memory is told."""

LARGE = 1.10
"""A mean gain of a hybrid that is not waved aside although its interval holds 1."""


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
    rival, decision = _settle(leaders, base, rivals)
    if decision in ("split", "hybrid") and base.settled and not rival.settled:
        decision = "undecided"
    ratio = paired_ratio(rival, base)
    chosen = rival if decision in ("split", "hybrid") else base
    if decision == "undecided":
        chosen = _better(rival, base)
    units: tuple[BudgetUnit, ...] = ("devices", "watts", "money")
    return Verdict(
        decision=decision,
        words=_words(decision, rival, base, ratio),
        ratio=ratio,
        binds=chosen.binds,
        reason=_reason(leaders, rival, base),
        gains={unit: gain(rival, base, unit) for unit in units},
        chosen=chosen,
    )


def _settle(leaders: Leaders, base: Finalist, rivals: list[Finalist]) -> tuple[Finalist, Decision]:
    """The simplest answer that the intervals allow: a split rather than a hybrid, and neither rather than
    one of them. A hybrid has to be surely better than both; a split surely better than the baseline."""
    best = max(rivals, key=lambda it: it.rate_rps)
    split, hybrid = leaders.split, leaders.hybrid
    sound = hybrid is not None and (hybrid.settled or not base.settled)
    if hybrid is not None and sound and hybrid in rivals and _surely(hybrid, base):
        if split is None or split not in rivals or _surely(hybrid, split) or not _surely(split, base):
            return hybrid, "hybrid"
        return split, "split"
    if split is None or split not in rivals:
        return best, "undecided" if _may(best, base, LARGE) else "do not split"
    if _surely(split, base):
        return split, "split"
    if _may(split, base, PROMISING):
        return split, "undecided"
    if best is not split and sound and _may(best, base, LARGE):
        return best, "undecided"
    return split, "do not split"


def _surely(one: Finalist, other: Finalist) -> bool:
    """Better by more than is worth it on average, and better within the whole interval."""
    ratio = paired_ratio(one, other)
    if ratio is None or ratio.low is None:
        return one.rate_rps > other.rate_rps  # the other serves nothing within the targets
    return ratio.low > 1.0 and ratio.mean >= WORTHWHILE


def _may(one: Finalist, other: Finalist, least: float) -> bool:
    """Whether it gains ``least`` on average, if not surely. The burden of proof is with the more complicated
    fleet: without such a gain a wide interval is no reason to leave the question open."""
    ratio = paired_ratio(one, other)
    return one.rate_rps > other.rate_rps if ratio is None else ratio.mean >= least


def _better(one: Finalist, other: Finalist) -> Finalist:
    return one if one.rate_rps > other.rate_rps else other


def _no_rival(leaders: Leaders) -> Verdict:
    base = leaders.baseline
    words = (
        f"Do not split: no split of this budget meets the targets, the unsplit {base.candidate.name} serves "
        f"{base.rate_rps:.3g} requests/s."
    )
    if base.rate_rps <= 0:
        words = (
            "Do not split: nothing within this budget serves any rate at which enough requests meet the "
            "targets; "
            f"the unsplit {base.candidate.name} comes as near as a split. Relax the targets or raise the "
            "budget."
        )
    reason = "no pair of pools fits the budget, or no path between them is known"
    if leaders.split is not None:
        reason = f"the best split, {leaders.split.candidate.name}, serves nothing: {_wait(leaders.split)}"
    return Verdict("do not split", words, None, base.binds, reason, {}, base)


def _words(decision: Decision, rival: Finalist, base: Finalist, ratio: Interval | None) -> str:
    numbers = (
        f"{rival.candidate.name} serves {_rate(rival)} requests/s within the targets, the unsplit baseline "
        f"{base.candidate.name} {_rate(base)}"
    )
    if ratio is None or ratio.low is None or ratio.high is None:
        return f"{decision.capitalize()}: {numbers}."
    change = f"{100 * (ratio.mean - 1):+.0f} % (95 % interval {100 * (ratio.low - 1):+.0f} to "
    change += f"{100 * (ratio.high - 1):+.0f} %, {ratio.samples} seeds)"
    if decision == "undecided" and not rival.settled:
        return f"Undecided: {numbers}: {change}, but its runs were too short for that rate and flatter it."
    if decision == "undecided":
        return f"Undecided: {numbers}: {change}. The interval holds both answers; more --seeds may decide."
    return f"{decision.capitalize()}: {numbers}: {change}."


def _rate(finalist: Finalist) -> str:
    found = finalist.goodput
    if found.low is None or found.high is None:
        return f"{found.mean:.3g}"
    return f"{found.mean:.3g} ({max(0.0, found.low):.3g}–{found.high:.3g})"


def _reason(leaders: Leaders, rival: Finalist, base: Finalist) -> str:
    """What binds on either side, with the use that shows it."""
    parts = [f"the {rival.candidate.kind} is bound by {_wait(rival)}{_use(rival)}"]
    split = leaders.split
    if split is not None and split is not rival:
        parts.append(
            f"a plain split ({split.candidate.name}) serves {split.rate_rps:.3g}, bound by {_wait(split)}"
        )
    parts.append(f"the unsplit baseline is bound by {_wait(base)}{_use(base)}")
    return "; ".join(parts)


def _wait(finalist: Finalist) -> str:
    """The binding resource, and the share of TTFT spent waiting for decode memory where that is large."""
    probe = finalist.above
    if probe is None:
        return finalist.binds
    effects = probe.effects
    total_s = effects.place_wait_s + effects.queue_s + effects.prefill_s
    share = effects.place_wait_s / total_s if total_s > 0 else 0.0
    if finalist.binds != "decode KV" or share < TOLD_WAIT:
        return finalist.binds
    return f"decode KV, {share:.0%} of its TTFT is waiting for it"


def _use(finalist: Finalist) -> str:
    at = finalist.at
    if at is None:
        return ""
    busy = ", ".join(f"{name} {share:.0%} busy" for name, share in at.utilisation.items())
    memory = ", ".join(f"{name} {share:.0%}" for name, share in at.kv_peak.items())
    return f" ({busy}; KV at most {memory})"
