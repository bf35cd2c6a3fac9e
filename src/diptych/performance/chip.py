"""One chip, card, socket or system of the catalogue.

Knows: which figures there are, what each is for, and what to say when one is missing. Does not know: how the
figures were written down, how seconds follow from them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from diptych.performance.figures import (
    Figure,
    FormatNotSupported,
    Known,
    Missing,
    MissingFigure,
    NotSupported,
    Rate,
)

Precision = Literal["bf16", "fp8", "fp4"]

PRECISIONS: tuple[Precision, ...] = ("bf16", "fp8", "fp4")
"""From wide to narrow."""

Unit = Literal["chip", "card", "socket", "system"]
"""What one entry counts as: a 'system' cannot be bought in parts."""

Level = Literal["sram", "hbm", "ddr"]
"""On the chip; the fast memory beside it (HBM, GDDR, unified LPDDR); the large slow one behind that."""

MATTERS_FOR = {
    "bf16_flops": "the time of prefill in bf16",
    "fp8_flops": "the time of prefill in fp8",
    "fp4_flops": "the time of prefill in fp4",
    "memory_bytes": "whether weights and KV fit",
    "bandwidth_bytes_per_s": "the time of a decode step",
    "scaleup_bytes_per_s": "tensor and expert parallelism",
    "scaleup_chips": "the largest tensor or expert parallel group",
    "nic_bytes_per_s": "the handoff of KV between machines",
    "tdp_w": "power, energy and every figure per watt",
    "rent_usd_per_h": "cost per hour and per million tokens",
}
"""Figure -> what cannot be said without it. The order is the order of reports."""

REMEDY = "Give the pool a measured profile, or choose a chip that publishes it"


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    """One level of memory."""

    level: Level
    kind: str
    """As the vendor names it: 'HBM3e', 'GDDR7', 'SRAM only'."""
    capacity: Known = None
    """As on the vendor's sheet."""
    visible: Known = None
    """What programs find, where that is published and is not the sheet's decimal figure."""
    bandwidth: Known = None
    note: str = ""


class Chip(msgspec.Struct, frozen=True, kw_only=True):
    """All figures of one catalogue entry. Rates are dense, bandwidth is peak, links count one direction."""

    name: str
    aliases: tuple[str, ...] = ()
    vendor: str
    unit: Unit
    role: str
    """What its figures suggest: 'prefill', 'decode', 'both', with remarks."""
    bf16: Rate = None
    fp8: Rate = None
    fp4: Rate = None
    tiers: tuple[Tier, ...] = ()
    main_level: Level = "hbm"
    """The tier that holds weights and KV."""
    scaleup: Known = None
    scaleup_domain: Known = None
    scaleup_kind: str = ""
    nic: Known = None
    tdp: Known = None
    prompt_power: Known = None
    token_power: Known = None
    idle_power: Known = None
    price_low: Known = None
    price_high: Known = None
    rent_low: Known = None
    rent_high: Known = None
    notes: tuple[str, ...] = ()

    # ------------------------------------------------------------ typed access: SI numbers or an error

    def rate(self, precision: Precision) -> Rate:
        """Dense peak at ``precision`` in its three states."""
        return {"bf16": self.bf16, "fp8": self.fp8, "fp4": self.fp4}[precision]

    def supports(self, precision: Precision) -> bool | None:
        """Whether the hardware computes in ``precision``; None where that is not published."""
        rate = self.rate(precision)
        return None if rate is None else isinstance(rate, Figure)

    def compute_precision(self, stored: Precision) -> Precision:
        """The precision in which weights stored as ``stored`` are multiplied: that one, or the next wider
        one that the hardware has."""
        for precision in reversed(PRECISIONS[: PRECISIONS.index(stored) + 1]):
            if self.supports(precision) is not False:
                return precision
        raise FormatNotSupported(f"{self.name} multiplies neither {stored} nor a wider format")

    def peak_flops(self, precision: Precision) -> float:
        """Dense FLOP/s at ``precision``.

        Raises:
            FormatNotSupported: the hardware lacks the format.
            MissingFigure: the vendor has not published it.
        """
        rate = self.rate(precision)
        if isinstance(rate, NotSupported):
            have = ", ".join(p for p in PRECISIONS if self.supports(p)) or "none that is published"
            raise FormatNotSupported(f"{self.name} does not compute in {precision} (it does in: {have})")
        return self._need(f"{precision}_flops", rate)

    @property
    def memory_bytes(self) -> float:
        """Capacity of the main tier; raises MissingFigure."""
        return self._need("memory_bytes", self.main.capacity)

    @property
    def visible_bytes(self) -> float:
        """What programs find of it; the sheet's figure where that is all that is known."""
        return self._need("memory_bytes", self.main.visible or self.main.capacity)

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Peak bandwidth of the main tier; raises MissingFigure."""
        return self._need("bandwidth_bytes_per_s", self.main.bandwidth)

    @property
    def scaleup_bytes_per_s(self) -> float:
        """One direction of the scale-up link of one chip; raises MissingFigure."""
        return self._need("scaleup_bytes_per_s", self.scaleup)

    @property
    def scaleup_chips(self) -> int:
        """Chips of one scale-up domain; raises MissingFigure."""
        return int(self._need("scaleup_chips", self.scaleup_domain))

    @property
    def nic_bytes_per_s(self) -> float:
        """Network of one chip; raises MissingFigure."""
        return self._need("nic_bytes_per_s", self.nic)

    @property
    def tdp_w(self) -> float:
        """Board or package power; raises MissingFigure."""
        return self._need("tdp_w", self.tdp)

    @property
    def main(self) -> Tier:
        """The tier that holds weights and KV."""
        tier = self.tier(self.main_level)
        return tier if tier is not None else Tier(level=self.main_level, kind="unknown")

    def tier(self, level: Level) -> Tier | None:
        """The tier at ``level``, if the chip has one."""
        return next((tier for tier in self.tiers if tier.level == level), None)

    def missing(self) -> tuple[Missing, ...]:
        """Every unknown figure and why it matters, in the order of `MATTERS_FOR`."""
        have: dict[str, Rate] = {
            "bf16_flops": self.bf16,
            "fp8_flops": self.fp8,
            "fp4_flops": self.fp4,
            "memory_bytes": self.main.capacity,
            "bandwidth_bytes_per_s": self.main.bandwidth,
            "scaleup_bytes_per_s": self.scaleup,
            "scaleup_chips": self.scaleup_domain,
            "nic_bytes_per_s": self.nic,
            "tdp_w": self.tdp,
            "rent_usd_per_h": self.rent_low,
        }
        return tuple(self._missing(name) for name, figure in have.items() if figure is None)

    def _missing(self, figure: str) -> Missing:
        return Missing(chip=self.name, figure=figure, matters_for=MATTERS_FOR[figure])

    def _need(self, name: str, figure: Known) -> float:
        if figure is None:
            raise MissingFigure(self._missing(name), REMEDY)
        return figure.base
