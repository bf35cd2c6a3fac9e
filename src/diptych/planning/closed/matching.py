"""Matching prefill and decode instances: whole numbers of each whose rates agree.

Knows: rates and integers. Does not know: what gives the rates. Equations: latency model §9, after *Beyond the
Buzz* (2025, §4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diptych.domain.errors import SpecError
from diptych.planning.closed.checks import count, positive

MATCH_TOLERANCE = 0.03
"""How far the small ratio may lie from the exact one (Beyond the Buzz, 2025)."""


@dataclass(frozen=True, slots=True)
class PrefillOption:
    """One way to prefill: an instance's chips, rate and seconds to a first token."""

    name: str
    chips: int
    rps: float
    first_token_s: float


@dataclass(frozen=True, slots=True)
class DecodeOption:
    """One way to decode: an instance's chips, tokens per second and seconds of a step."""

    name: str
    chips: int
    tokens_per_s: float
    step_s: float


@dataclass(frozen=True, slots=True)
class Matched:
    """So many instances of each, and what they carry."""

    prefill: PrefillOption
    decode: DecodeOption
    prefill_instances: int
    decode_instances: int
    rps: float

    @property
    def chips(self) -> int:
        """All chips."""
        return self.prefill_instances * self.prefill.chips + self.decode_instances * self.decode.chips

    @property
    def rps_per_chip(self) -> float:
        """What they carry for each chip."""
        return self.rps / self.chips

    @property
    def chip_ratio(self) -> float:
        """Prefill chips for each decode chip."""
        return self.prefill_instances * self.prefill.chips / (self.decode_instances * self.decode.chips)


def smallest_ratio(exact: float, tolerance: float = MATCH_TOLERANCE, most: int = 1000) -> tuple[int, int]:
    """(num, den) with the least sum and ``num/den`` within ``tolerance`` of ``exact``.

    Raises:
        SpecError: none with both up to ``most``.
    """
    positive(exact=exact, tolerance=tolerance)
    count(most=most)
    for total in range(2, 2 * most + 1):
        near = round(total * exact / (1 + exact))
        for num in (near, near - 1, near + 1):
            den = total - num
            if 1 <= num <= most and 1 <= den <= most and abs(num / den / exact - 1) <= tolerance:
                return num, den
    raise SpecError(
        f"exact: {exact:g} needs more than {most} instances of one kind; the rates differ too much"
    )


def match_rates(
    prefill: Sequence[PrefillOption],
    decode: Sequence[DecodeOption],
    output_tokens: float,
    *,
    first_token_limit_s: float,
    step_limit_s: float,
    tolerance: float = MATCH_TOLERANCE,
) -> list[Matched]:
    """All pairs within both limits, best rate per chip first.

    An instance of decode finishes ``tokens_per_s/(output_tokens − 1)`` requests per second, as the first
    token is
    prefill's.
    """
    if not output_tokens > 1:
        raise SpecError(f"output_tokens: {output_tokens:g} leaves nothing to decode; give more than 1")
    positive(first_token_limit_s=first_token_limit_s, step_limit_s=step_limit_s)
    found = [
        _matched(p, d, d.tokens_per_s / (output_tokens - 1), tolerance)
        for p in prefill
        if p.first_token_s <= first_token_limit_s
        for d in decode
        if d.step_s <= step_limit_s
    ]
    return sorted(found, key=lambda pair: -pair.rps_per_chip)


def _matched(prefill: PrefillOption, decode: DecodeOption, decode_rps: float, tolerance: float) -> Matched:
    positive(prefill_rps=prefill.rps, decode_rps=decode_rps)
    decodes, prefills = smallest_ratio(prefill.rps / decode_rps, tolerance)
    rps = min(prefills * prefill.rps, decodes * decode_rps)
    return Matched(prefill, decode, prefills, decodes, rps)


def best_within(
    pair_prefill: PrefillOption, pair_decode: DecodeOption, output_tokens: float, chips: int
) -> Matched:
    """The best whole split of a number of chips: with few chips much is lost to rounding.

    Raises:
        SpecError: fewer chips than one instance of each needs.
    """
    if not output_tokens > 1:
        raise SpecError(f"output_tokens: {output_tokens:g} leaves nothing to decode; give more than 1")
    least = pair_prefill.chips + pair_decode.chips
    if chips < least:
        raise SpecError(f"chips: {chips} do not hold one instance of each; give at least {least}")
    decode_rps = pair_decode.tokens_per_s / (output_tokens - 1)
    found: list[Matched] = []
    for prefills in range(1, (chips - pair_decode.chips) // pair_prefill.chips + 1):
        decodes = (chips - prefills * pair_prefill.chips) // pair_decode.chips
        rps = min(prefills * pair_prefill.rps, decodes * decode_rps)
        found.append(Matched(pair_prefill, pair_decode, prefills, decodes, rps))
    return max(found, key=lambda it: (it.rps, -it.chips))
