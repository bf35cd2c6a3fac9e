"""Power and money: published states and budgets; assumptions are said, unknown parts stay unknown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.domain.errors import SpecError
from diptych.domain.worker import Role
from diptych.performance.cost import (
    Rent,
    energy_cost,
    fleet_cost,
    per_million_tokens,
    rent_of,
    rent_per_million_tokens,
)
from diptych.performance.figures import Missing
from diptych.performance.power import (
    CAP_ASSUMPTION,
    SPLITWISE_UNITS,
    Busy,
    PowerStates,
    UnknownPower,
    energy,
    machines_for_equal_budget,
    power_states,
    refuse_cap,
)
from diptych.planning.library import load_catalogue

CATALOGUE = load_catalogue()
WATTS = st.floats(1, 2000)


def states(name: str) -> PowerStates:
    power = power_states(CATALOGUE.chip(name))
    assert isinstance(power, PowerStates)
    return power


def test_published_states() -> None:
    assert (states("a100").prompt_w, states("a100").token_w, states("a100").idle_w) == (400, 250, 63)
    assert (states("h100").prompt_w, states("h100").token_w, states("h100").idle_w) == (700, 380, 75)
    assert states("h100").assumptions == ()


def test_what_is_not_published_is_an_assumption_that_is_said() -> None:
    b200 = states("b200")
    assert (b200.prompt_w, b200.token_w, b200.idle_w) == (1000, 1000, pytest.approx(110))
    assert len(b200.assumptions) == 3 and all("B200-SXM" in words for words in b200.assumptions)


def test_energy_by_hand() -> None:
    """100 s of prompts, 50 s of tokens and 10 s idle on an H100: 70 + 19 + 0.75 kJ."""
    busy = Busy(prompt_s=100, token_s=50, idle_s=10)
    assert energy([(states("h100"), busy)]).total_j == 700 * 100 + 380 * 50 + 75 * 10
    both = energy([(states("h100"), busy), (states("b200"), busy)])
    assert both.joules == pytest.approx(89_750 + 1000 * 150 + 1100)
    assert both.assumptions == states("b200").assumptions


def test_unknown_power_makes_the_sum_unknown() -> None:
    sn50 = power_states(CATALOGUE.chip("sn50"))
    assert isinstance(sn50, UnknownPower)
    total = energy([(states("h100"), Busy(idle_s=1)), (sn50.capped(100), Busy(token_s=9))])
    assert total.total_j is None and total.joules == 75
    assert [item.chip for item in total.unknown] == ["SN50"]


def test_a_cap_is_for_decode_and_says_its_assumption() -> None:
    capped = states("h100").capped(350)
    assert (capped.prompt_w, capped.token_w, capped.idle_w) == (350, 350, 75)
    assert capped.assumptions == (CAP_ASSUMPTION,)
    assert states("h100").capped(900) == states("h100")
    with pytest.raises(SpecError, match="not above the idle power of 75 W"):
        states("h100").capped(60)
    refuse_cap(Role.DECODE, 400)
    refuse_cap(Role.PREFILL, None)
    for role in (Role.PREFILL, Role.MIXED):
        with pytest.raises(SpecError, match=r"1\.3 times as long for a prompt; cap the decode pool only"):
            refuse_cap(role, 400)


@given(WATTS, WATTS, WATTS, WATTS)
def test_a_cap_never_raises_power(prompt: float, token: float, idle: float, cap: float) -> None:
    free = PowerStates(prompt_w=prompt, token_w=token, idle_w=min(idle, prompt, token))
    if cap <= free.idle_w:
        return
    capped = free.capped(cap)
    assert capped.prompt_w <= min(prompt, cap) and capped.token_w <= min(token, cap)


def test_published_equal_budgets() -> None:
    power, cost = SPLITWISE_UNITS["power"], SPLITWISE_UNITS["cost"]
    assert machines_for_equal_budget(40, power["H100"], power["A100"]) == 70
    assert machines_for_equal_budget(40, cost["H100"], cost["A100"]) == 86
    assert machines_for_equal_budget(15, power["H100"], power["H100-capped"]) == 21
    assert machines_for_equal_budget(3, 0.3, 0.1) == 9  # 3 · 0.3 / 0.1 is below 9 in binary


@pytest.mark.parametrize(("prompt", "token", "units"), [(36, 4, 1707.2), (18, 22, 1469.6)])
def test_published_power_of_a_capped_fleet(prompt: int, token: int, units: float) -> None:
    power = SPLITWISE_UNITS["power"]
    assert prompt * power["H100"] + token * power["H100-capped"] == pytest.approx(units)


# ---------------------------------------------------------------- money


def test_cost_by_hand() -> None:
    """8 H100 at 1.38 to 5.00 an hour; 2,000 tokens/s are 7.2 million an hour."""
    cost = fleet_cost([(CATALOGUE.chip("h100"), 8)])
    rent = cost.total_per_hour
    assert rent is not None and (rent.low, rent.high) == (pytest.approx(11.04), 40.0)
    per_million = rent_per_million_tokens(rent, 2000)
    assert per_million is not None
    assert (per_million.low, per_million.high) == (pytest.approx(11.04 / 7.2), pytest.approx(40 / 7.2))
    assert per_million_tokens(40.0, 0) is None and rent_per_million_tokens(rent, 0) is None


def test_an_unknown_price_stays_unknown() -> None:
    fleet = [(CATALOGUE.chip("h100"), 1), (CATALOGUE.chip("sn40l"), 16)]
    cost = fleet_cost(fleet)
    assert cost.total_per_hour is None and cost.per_hour.high == 5.0
    assert str(cost.unknown[0]).startswith("SN40L: rent_usd_per_h is not published; it matters for cost")
    assert isinstance(rent_of(CATALOGUE.chip("sn40l")), Missing)
    given_price = fleet_cost(fleet, {"SN40L": 2.0}).total_per_hour
    assert given_price is not None and given_price.high == 37.0


def test_prices_for_hardware_that_is_not_there_are_refused() -> None:
    with pytest.raises(SpecError, match=r"'h100', which is not in the fleet \(H100-SXM\)"):
        fleet_cost([(CATALOGUE.chip("h100"), 1)], {"h100": 2.0})
    with pytest.raises(SpecError, match="not negative"):
        Rent(low=3, high=2)


def test_a_kilowatt_for_an_hour_costs_its_price() -> None:
    assert energy_cost(1000 * 3600, 0.25) == 0.25
