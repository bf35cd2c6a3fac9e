"""What is asked of a plan: latency targets, a budget, effort.

Knows: which of them contradict each other. Does not know: hardware, candidates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from diptych.domain.errors import SpecError

BudgetUnit = Literal["devices", "money", "watts"]

UNITS: dict[BudgetUnit, str] = {"devices": "chips", "money": "USD/h", "watts": "W"}
"""What a budget counts."""

_FLAGS: dict[BudgetUnit, str] = {
    "devices": "--budget-devices",
    "money": "--budget-money",
    "watts": "--budget-watts",
}

_TEXT = re.compile(r"(?P<sign>[$])?\s*(?P<amount>\d[\d,]*(?:\.\d+)?(?:e\d+)?)\s*(?P<unit>[a-zA-Z/]*)")
_SPELLED: dict[str, tuple[BudgetUnit, float]] = {
    **dict.fromkeys(("", "chip", "chips", "device", "devices", "gpu", "gpus"), ("devices", 1.0)),
    **dict.fromkeys(("$", "usd", "usd/h"), ("money", 1.0)),
    **dict.fromkeys(("w", "watt", "watts"), ("watts", 1.0)),
    "kw": ("watts", 1e3),
    "mw": ("watts", 1e6),
}
"""How the unit of a budget may be written in one text, and what one of it counts."""

_SUCH_AS: dict[BudgetUnit, int] = {"devices": 8, "money": 50, "watts": 10_000}
"""Valid ones, for messages."""


@dataclass(frozen=True)
class Targets:
    """A request is good if it meets both; a rate is good if ``share`` of the requests are."""

    ttft_s: float
    tpot_s: float
    share: float = 0.9

    def __post_init__(self) -> None:
        for flag, value in (("--ttft", self.ttft_s), ("--tpot", self.tpot_s)):
            if not (isfinite(value) and value > 0):
                raise SpecError(
                    f"{flag} {value:g}: a latency target is a positive number of seconds, such as 0.5"
                )
        if not 0 < self.share < 1:
            raise SpecError(f"--share {self.share:g}: between 0 and 1, such as 0.9")


@dataclass(frozen=True)
class Budget:
    """Most of one thing that a candidate may use."""

    unit: BudgetUnit
    limit: float

    def __str__(self) -> str:
        return f"{self.limit:,.10g} {UNITS[self.unit]}"

    @property
    def flag(self) -> str:
        """How it was asked for."""
        return _FLAGS[self.unit]


def budget_of(
    devices: int | None, money: float | None, watts: float | None, text: str | None = None
) -> Budget:
    """The one budget that is given, as a number or as ``text`` (`budget_in`). Raises `SpecError` for none,
    several, or one that buys nothing."""
    given: list[Budget] = [] if text is None else [budget_in(text)]
    if devices is not None:
        given.append(Budget("devices", devices))
    if money is not None:
        given.append(Budget("money", money))
    if watts is not None:
        given.append(Budget("watts", watts))
    if len(given) != 1:
        flags = " and ".join(budget.flag for budget in given) or "no budget"
        raise SpecError(
            f"{flags} given: a plan has one budget, since candidates are ranked by goodput within it; "
            "give one of --budget-devices, --budget-money (USD/h), --budget-watts, or --budget with its unit"
        )
    budget = given[0]
    if not (isfinite(budget.limit) and budget.limit > 0):
        raise SpecError(
            f"{budget.flag} {budget.limit:g}: a budget is a positive number of {UNITS[budget.unit]}; such as "
            f"{budget.flag} {_SUCH_AS[budget.unit]}"
        )
    return budget


def budget_in(text: str) -> Budget:
    """A budget with its unit: ``16`` or ``16 chips``, ``50USD/h`` or ``$50``, ``10kW`` or ``10000W``. Raises
    `SpecError`."""
    found = _TEXT.fullmatch(text.strip())
    unit = None if found is None else _SPELLED.get((found["sign"] or found["unit"] or "").lower())
    if found is None or unit is None or (found["sign"] and found["unit"] not in ("", "/h")):
        raise SpecError(f"--budget {text}: write it like 16 (chips), 50USD/h or 10kW")
    name, times = unit
    amount = float(found["amount"].replace(",", "")) * times
    if name == "devices" and amount != int(amount):
        raise SpecError(f"--budget {text}: chips are counted whole; such as 16")
    return Budget(name, amount)


@dataclass(frozen=True)
class Effort:
    """How much is simulated. The defaults keep a plan over six kinds of hardware below half a minute on two
    cores."""

    seeds: int = 3
    """Independent draws of the workload, for the confidence intervals."""
    most_requests: int = 700
    """Of one simulation."""
    least_requests: int = 250
    tolerance: float = 0.06
    """Width of the bracket in which a goodput is read off a straight line."""
    finalists: int = 3
    """Simulated candidates of each kind (unsplit, split; one hybrid less)."""
    processes: int = 2
    regret: bool = True

    def __post_init__(self) -> None:
        if self.seeds < 3:
            raise SpecError(f"--seeds {self.seeds}: a confidence interval needs 3 or more")
        if self.processes < 1:
            raise SpecError(f"--processes {self.processes}: at least 1")
