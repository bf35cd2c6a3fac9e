"""Watts and joules: what a chip draws in each state, and what capping it changes.

Knows: power states and where they come from, capping and its published price, energy of busy seconds. Does
not know: who is busy when, money.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

import msgspec

from diptych.domain.errors import SpecError
from diptych.domain.worker import Role
from diptych.performance.chip import Chip
from diptych.performance.figures import Figure, Missing

IDLE_SHARE = 0.11
"""Idle power as a share of TDP where it is not published. An assumption: H100's (75 of 700 W, Splitwise
2024);
A100's is 0.16."""

CAPPED_PROMPT_FACTOR = 1.30
"""Prompt seconds of a capped machine over an uncapped one (Splitwise's published table, 2024). An assumption
of that table, not a measurement: every row has exactly this factor."""

CAPPED_TOKEN_FACTOR = 1.00
"""Token seconds of a capped machine, likewise."""

CAPPED_POWER_SHARE = 0.70
"""Power of a capped token machine over an uncapped one, in the same units (30.8 of 44, Splitwise 2024)."""

CAP_ASSUMPTION = (
    "power cap: decode steps are taken to last as long as without it (factor 1.00), an assumption of the "
    "published Splitwise table and not a measurement"
)
"""Words for every estimate that uses a cap."""


class State(StrEnum):
    """What a chip does."""

    PROMPT = "prompt"
    TOKEN = "token"
    IDLE = "idle"


class PowerStates(msgspec.Struct, frozen=True, kw_only=True):
    """Watts of one chip by state; ``assumptions`` says which of them are not published."""

    prompt_w: float
    token_w: float
    idle_w: float
    assumptions: tuple[str, ...] = ()

    def watts(self, state: State) -> float:
        """Watts in ``state``."""
        return {State.PROMPT: self.prompt_w, State.TOKEN: self.token_w, State.IDLE: self.idle_w}[state]

    def energy_j(self, prompt_s: float, token_s: float, idle_s: float) -> float:
        """Joules of one chip that spends so many seconds in each state."""
        return self.prompt_w * prompt_s + self.token_w * token_s + self.idle_w * idle_s

    def capped(self, cap_w: float) -> PowerStates:
        """The same chip held below ``cap_w``. For decode pools only: see `refuse_cap`.

        Raises:
            SpecError: the cap is below the idle power.
        """
        if cap_w <= self.idle_w:
            raise SpecError(f"power_cap_w {cap_w:g} is not above the idle power of {self.idle_w:g} W")
        if cap_w >= max(self.prompt_w, self.token_w):
            return self
        return PowerStates(
            prompt_w=min(self.prompt_w, cap_w),
            token_w=min(self.token_w, cap_w),
            idle_w=self.idle_w,
            assumptions=(*self.assumptions, CAP_ASSUMPTION),
        )


class UnknownPower(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing is published: energy and every figure per watt stay unknown."""

    missing: Missing

    def capped(self, cap_w: float) -> UnknownPower:
        """Still unknown."""
        del cap_w
        return self


def power_states(chip: Chip) -> PowerStates | UnknownPower:
    """Watts of ``chip`` by state: published where they are, else TDP while busy and a share of it while
    idle, which is said in ``assumptions``."""
    if chip.tdp is None:
        missing = next(item for item in chip.missing() if item.figure == "tdp_w")
        return UnknownPower(missing=missing)
    assumptions: list[str] = []

    def known(figure: Figure | None, fallback_w: float, words: str) -> float:
        if figure is not None:
            return figure.base
        assumptions.append(f"{chip.name}: {words}")
        return fallback_w

    tdp_w = chip.tdp.base
    return PowerStates(
        prompt_w=known(chip.prompt_power, tdp_w, f"prefill taken to draw its TDP of {tdp_w:g} W"),
        token_w=known(
            chip.token_power, tdp_w, f"decode taken to draw its TDP of {tdp_w:g} W, an upper bound"
        ),
        idle_w=known(
            chip.idle_power,
            IDLE_SHARE * tdp_w,
            f"idle taken to draw {IDLE_SHARE:.0%} of its TDP, an estimate",
        ),
        assumptions=tuple(assumptions),
    )


def refuse_cap(role: Role, cap_w: float | None) -> None:
    """A cap on anything but a decode pool is an error: prefill would take 1.3 times as long."""
    if cap_w is not None and role is not Role.DECODE:
        raise SpecError(
            f"power_cap_w {cap_w:g} on a {role.value} pool: a capped chip needs "
            f"{CAPPED_PROMPT_FACTOR:g} times as long for a prompt; cap the decode pool only"
        )


class Busy(msgspec.Struct, frozen=True, kw_only=True):
    """How long all chips of one pool together were in each state."""

    prompt_s: float = 0.0
    token_s: float = 0.0
    idle_s: float = 0.0


class Energy(msgspec.Struct, frozen=True, kw_only=True):
    """Joules of a plan. ``unknown``: pools whose power is not published; their energy is not in ``joules``,
    so that a sum over part of the hardware is never taken for the whole."""

    joules: float
    unknown: tuple[Missing, ...] = ()
    assumptions: tuple[str, ...] = ()

    @property
    def total_j(self) -> float | None:
        """Joules of the whole plan, or None if part of it is unknown."""
        return None if self.unknown else self.joules


def energy(pools: Iterable[tuple[PowerStates | UnknownPower, Busy]]) -> Energy:
    """``Σ busy_p·P_p + busy_d·P_d + idle·P_idle`` over the pools."""
    joules, unknown, assumptions = 0.0, list[Missing](), list[str]()
    for power, busy in pools:
        if isinstance(power, UnknownPower):
            unknown.append(power.missing)
            continue
        joules += power.energy_j(busy.prompt_s, busy.token_s, busy.idle_s)
        assumptions.extend(word for word in power.assumptions if word not in assumptions)
    return Energy(joules=joules, unknown=tuple(unknown), assumptions=tuple(assumptions))


def machines_for_equal_budget(machines: int, of_budget: float, other_budget: float) -> int:
    """How many machines of ``other_budget`` (watts, money) each the budget of ``machines`` of ``of_budget``
    each pays for: the floor, since half a machine serves nobody."""
    return int(machines * of_budget / other_budget + 1e-9)


SPLITWISE_UNITS: Mapping[str, Mapping[str, float]] = {
    "power": {"A100": 24.8, "H100": 44.0, "H100-capped": 30.8},
    "cost": {"A100": 2.21, "H100": 4.76},
}
"""Planning units of a machine in the published Splitwise study (2024), for its own tables only."""
