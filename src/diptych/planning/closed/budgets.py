"""Fleets for equal money or power, and what a power cap on one phase saves.

Knows: units per machine, whole machines. Does not know: machines' speed. Figures: *Splitwise* (ISCA 2024,
table 5
and §5), latency model §8 and T6.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import Literal

from diptych.domain.errors import SpecError
from diptych.planning.closed.checks import count, not_negative, positive

Phase = Literal["prefill", "decode"]

CAPPED_PROMPT_FACTOR = 1.30
"""Prompt seconds of a machine capped to 70 % of its power, over uncapped ones. An assumption of the published
table, not a measurement: every row of ``h100-80gb-pcap`` in splitwise-sim's perf_model.csv is the H100 row
times exactly 1.30, and its token times are unchanged (2024)."""

CAPPED_DECODE_FACTOR = 1.00
"""Step seconds of a machine capped to 70 %, over uncapped ones. The same assumption."""


@dataclass(frozen=True, slots=True)
class MachineUnits:
    """What one machine takes out of a budget, in any unit that the budget has too."""

    power: float
    cost: float

    def __post_init__(self) -> None:
        positive(power=self.power, cost=self.cost)


SPLITWISE_H100 = MachineUnits(power=44.0, cost=4.76)
"""Planning units of an 8-GPU machine; Splitwise's simulator, 2024."""
SPLITWISE_A100 = MachineUnits(power=24.8, cost=2.21)
SPLITWISE_H100_CAPPED = MachineUnits(power=30.8, cost=4.76)
"""70 % of the H100's power at the same price."""


def machines_for(budget: float, each: float) -> int:
    """Whole machines within a budget."""
    not_negative(budget=budget)
    positive(each=each)
    # A quotient that is whole but for rounding counts as whole.
    return floor(budget / each + 1e-9)


def equal_machines(machines: int, each: float, other_each: float) -> int:
    """How many other machines the budget of ``machines`` buys."""
    count(machines=machines)
    return machines_for(machines * each, other_each)


@dataclass(frozen=True, slots=True)
class CapEffect:
    """A power cap on one pool, seen over the fleet."""

    power: float
    """Of the fleet with the cap, in the machines' units."""
    saved_share: float
    prefill_rate_factor: float
    decode_rate_factor: float
    assumption: str
    """What the factors rest on."""


def cap_pool(phase: Phase, prefill: int, decode: int, full: float, capped: float) -> CapEffect:
    """What capping one pool's machines from ``full`` to ``capped`` power does to the fleet.

    Raises:
        SpecError: the cap is above the full power.
    """
    count(prefill=prefill, decode=decode)
    positive(full=full, capped=capped)
    if capped > full:
        raise SpecError(f"capped: {capped:g} is above the full power {full:g}")
    machines = prefill if phase == "prefill" else decode
    whole = (prefill + decode) * full
    power = whole - machines * (full - capped)
    return CapEffect(
        power=power,
        saved_share=1 - power / whole,
        prefill_rate_factor=1 / CAPPED_PROMPT_FACTOR if phase == "prefill" else 1.0,
        decode_rate_factor=1 / CAPPED_DECODE_FACTOR,
        assumption="assumed, not measured: a cap to 70 % costs prompts 30 % time and steps none",
    )


def phase_to_cap(prefill: int, decode: int, full: float, capped: float) -> CapEffect | None:
    """The cap that saves power at equal throughput: always decode's, as prefill would lose rate; None if it
    saves nothing."""
    effect = cap_pool("decode", prefill, decode, full, capped)
    return effect if effect.saved_share > 0 else None
