"""Money: what a fleet costs per hour and per million tokens.

Knows: rents of the catalogue as ranges, prices given by the user, and sums that stay unknown where a part is.
Does not know: throughput, who is busy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from diptych.domain.errors import SpecError
from diptych.performance.chip import Chip
from diptych.performance.figures import Missing

SECONDS_PER_HOUR = 3600.0
TOKENS_PER_MILLION = 1e6


class Rent(msgspec.Struct, frozen=True, kw_only=True):
    """Money per hour, from the cheapest offer to the dearest. One known price: both are equal."""

    low: float
    high: float
    source: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise SpecError(
                f"a price per hour must be a range that is not negative, not {self.low}–{self.high}"
            )

    def times(self, count: float) -> Rent:
        """Of ``count`` of them."""
        return msgspec.structs.replace(self, low=self.low * count, high=self.high * count)


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Money per hour of a fleet. ``unknown``: hardware without a price; it is not in the range, so the range
    is that of the whole only if ``unknown`` is empty."""

    per_hour: Rent
    unknown: tuple[Missing, ...] = ()

    @property
    def total_per_hour(self) -> Rent | None:
        """Of the whole fleet, or None if a part has no price."""
        return None if self.unknown else self.per_hour


def rent_of(chip: Chip, prices: Mapping[str, float] | None = None) -> Rent | Missing:
    """Money per chip and hour: the user's price by catalogue name, else the catalogue's range, else what is
    missing."""
    if prices and chip.name in prices:
        return Rent(low=prices[chip.name], high=prices[chip.name], source="given")
    if chip.rent_low is not None and chip.rent_high is not None:
        return Rent(low=chip.rent_low.base, high=chip.rent_high.base, source=chip.rent_low.source)
    return Missing(
        chip=chip.name, figure="rent_usd_per_h", matters_for="cost per hour and per million tokens"
    )


def fleet_cost(fleet: Iterable[tuple[Chip, int]], prices: Mapping[str, float] | None = None) -> Cost:
    """Money per hour of ``fleet``, pairs of chip and count.

    Raises:
        SpecError: a price is given for a chip that is not in the fleet.
    """
    chips = list(fleet)
    names = {chip.name for chip, _ in chips}
    for name in prices or {}:
        if name not in names:
            raise SpecError(
                f"a price is given for {name!r}, which is not in the fleet ({', '.join(sorted(names))})"
            )
    low = high = 0.0
    unknown: list[Missing] = []
    for chip, count in chips:
        rent = rent_of(chip, prices)
        if isinstance(rent, Missing):
            unknown.append(rent)
        else:
            low, high = low + rent.low * count, high + rent.high * count
    return Cost(per_hour=Rent(low=low, high=high), unknown=tuple(unknown))


def per_million_tokens(per_hour: float, tokens_per_s: float) -> float | None:
    """Money per million tokens: ``rent / throughput``; None where nothing is produced."""
    if tokens_per_s <= 0:
        return None
    return per_hour * TOKENS_PER_MILLION / (tokens_per_s * SECONDS_PER_HOUR)


def rent_per_million_tokens(rent: Rent, tokens_per_s: float) -> Rent | None:
    """The same for a range."""
    low = per_million_tokens(rent.low, tokens_per_s)
    high = per_million_tokens(rent.high, tokens_per_s)
    return None if low is None or high is None else Rent(low=low, high=high, source=rent.source)


def energy_cost(joules: float, price_per_kwh: float) -> float:
    """Money for ``joules`` at ``price_per_kwh`` per kilowatt-hour."""
    return joules / 3.6e6 * price_per_kwh
