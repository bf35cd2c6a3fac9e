"""The motivating claims of latency model §12, each as numbers and, where numbers cannot be had, what is
missing.

Knows: T12's closed form, chips of the catalogue that it is given. Does not know: simulations, the search. A
gain is
given per chip and per watt, of all chips that take part; one "per B200 with the decode chips uncounted" is
named as
what it is.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from diptych.domain.errors import SpecError
from diptych.performance.catalogue import Catalogue
from diptych.performance.chip import Chip
from diptych.planning.closed.buzz import (
    LLAMA_70B,
    BuzzChip,
    BuzzModel,
    best_decode,
    prefill_rps_per_chip,
    step_s,
)
from diptych.planning.closed.checked import Checked, holds, near, shown

WORKLOAD = (8_192, 1_024, 0.05)
"""Prompt, output, limit of a step in s."""

FUSED_LAYER_US = 5.0
"""Fixed µs of a layer for a dataflow chip that fuses a whole layer: an assumption in its favour (§12)."""

BF16_70B = LLAMA_70B._replace(weight_bytes=2 * 70.6e9, kv_token_bytes=2 * 163_840.0)
"""The same model on a chip without 8-bit formats: weights and KV in bf16."""


class Gain(NamedTuple):
    """Prefill on one chip and decode on another, over both on the first."""

    per_chip: float
    per_watt: float
    per_prefill_chip: float
    """The decode chips uncounted: 1/(prefill share) of the chips of the uniform fleet. Never a gain."""
    decode_chips_per_prefill_chip: float


def buzz_chip(chip: Chip, precision: str, layer_us: tuple[float, float], sizes: tuple[int, ...]) -> BuzzChip:
    """A catalogue chip for the closed form. Raises MissingFigure."""
    flops = chip.peak_flops("fp8" if precision == "fp8" else "bf16")
    return BuzzChip(chip.bandwidth_bytes_per_s, flops, chip.memory_bytes, sizes, layer_us=layer_us)


def gain(prefill: tuple[BuzzModel, BuzzChip, float], decode: tuple[BuzzModel, BuzzChip, float]) -> Gain:
    """Each side: model as stored there, chip, watts of a chip."""
    prompt, output, limit_s = WORKLOAD
    model, chip, watts = prefill
    first = prefill_rps_per_chip(model, chip, prompt)
    own = best_decode(model, chip, prompt, output, limit_s).rps_per_chip
    other_model, other, other_watts = decode
    far = best_decode(other_model, other, prompt, output, limit_s).rps_per_chip
    if not far:
        raise SpecError("tpot: no batch on the decode chip keeps the limit; allow more time per token")
    uniform, mixed = 1 / (1 / first + 1 / own), 1 / (1 / first + 1 / far)
    per_watt = (watts / first + watts / own) / (watts / first + other_watts / far)
    return Gain(mixed / uniform, per_watt, first / uniform, first / far)


def refuse_partial_gain(counted_chips: int, all_chips: int) -> None:
    """A gain whose denominator leaves hardware out is none.

    Raises:
        SpecError: chips are left out; says how many.
    """
    if counted_chips < all_chips:
        raise SpecError(
            f"gain: the denominator counts {counted_chips} of {all_chips} chips; count all that take part"
        )


def utilisation(
    eta: float, layer_us: float, bandwidth: float, flops: float, batch: int, size: int
) -> tuple[float, float]:
    """(bandwidth use, compute use) of a decode step of Llama-70B fp8 at 1,024/1,024 with §4's two parameters.
    Compute counts the products with weights."""
    moved = LLAMA_70B.weight_bytes + batch * 1_536 * LLAMA_70B.kv_token_bytes
    seconds = moved / (size * bandwidth * eta) + LLAMA_70B.layers * layer_us * 1e-6
    return moved / (size * bandwidth * seconds), 2 * LLAMA_70B.parameters * batch / (size * flops * seconds)


def missing_inputs(chips: list[Chip]) -> list[str]:
    """What a claim about ``chips`` needs and nobody publishes: their unknown figures, and what no sheet
    gives."""
    found = [f"{it.chip}: {it.figure} ({it.matters_for})" for chip in chips for it in chip.missing()]
    return [
        *found,
        "fixed time of a layer in fused execution",
        "how many chips share the weights when they lie in SRAM",
        "workload, batch, precision and engine of the baseline",
    ]


def evaluate(catalogue: Catalogue) -> list[Checked]:
    """All statements of §12 that are arithmetic."""
    return [*_utilisation(catalogue), *_sn40l(catalogue), *_sn50(catalogue)]


def _utilisation(catalogue: Catalogue) -> list[Checked]:
    found: list[Checked] = []
    cases = (
        ("H100", "vLLM, batch 4", (0.96, 79.0), 4, (0.75, 0.62, 0.45, 0.30), None),
        ("H200", "TRT-LLM, batch 64", (0.80, 113.0), 64, (0.57, 0.44, 0.31, 0.19), (0.14, 0.11, 0.08, 0.05)),
    )
    for name, case, (eta, layer_us), batch, bandwidth, compute in cases:
        chip = catalogue.chip(name)
        peaks = chip.bandwidth_bytes_per_s, chip.peak_flops("fp8")
        for i, size in enumerate((1, 2, 4, 8)):
            used, busy = utilisation(eta, layer_us, *peaks, batch, size)
            title = f"decode of 70B fp8, {name} {case}, TP{size}"
            found.append(near(f"{title}: bandwidth use", bandwidth[i], round(used, 3), absolute=0.01))
            if compute:
                found.append(near(f"{title}: compute use", compute[i], round(busy, 3), absolute=0.01))
            else:
                found.append(holds(f"{title}: compute use", "≤ 1 %", busy <= 0.0105, f"{busy:.4f}"))
    return found


def _sn40l(catalogue: Catalogue) -> list[Checked]:
    b200, sn40l = catalogue.chip("B200"), catalogue.chip("SN40L")
    reach = sn40l.bandwidth_bytes_per_s / b200.bandwidth_bytes_per_s
    first = buzz_chip(b200, "fp8", (52.0, 86.0), (1, 2, 4, 8))
    sizes = (1, 2, 4, 8, 16)
    wide = buzz_chip(sn40l, "bf16", (52.0, 52.0), sizes)
    fused = buzz_chip(sn40l, "bf16", (FUSED_LAYER_US, FUSED_LAYER_US), sizes)
    low = gain((LLAMA_70B, first, b200.tdp_w), (BF16_70B, wide, sn40l.tdp_w))
    high = gain((LLAMA_70B, first, b200.tdp_w), (LLAMA_70B, fused, sn40l.tdp_w))
    slow = "decode FLOPs count too; the reference's own rounding differs by up to 4 %"
    prompt, output, _ = WORKLOAD
    context = prompt + output / 2

    def speed(model: BuzzModel, chip: BuzzChip, batch: int) -> float:
        own = step_s(LLAMA_70B, first._replace(layer_us=(52.0, 52.0)), 8, batch, context)
        return own / step_s(model, chip, 16, batch, context)

    lossless = fused._replace(flops=1e30)
    return [
        near("SN40L over B200: bandwidth per chip", 0.21, round(reach, 3), absolute=0.005),
        near(
            "SN40L over B200: bandwidth per watt",
            0.33,
            round(reach * b200.tdp_w / sn40l.tdp_w, 3),
            absolute=0.005,
        ),
        near(
            "B200 + SN40L over B200 alone, equal chips, bf16, 52 µs",
            0.26,
            round(low.per_chip, 3),
            relative=0.05,
            note=slow,
        ),
        near("the same, 8-bit storage, 5 µs", 0.50, round(high.per_chip, 3), relative=0.05, note=slow),
        near("the same at equal watts, bf16, 52 µs", 0.38, round(low.per_watt, 3), relative=0.05, note=slow),
        near(
            "the same at equal watts, 8-bit storage, 5 µs",
            0.66,
            round(high.per_watt, 3),
            relative=0.05,
            note=slow,
        ),
        near(
            "per B200 with the decode chips uncounted (no gain)",
            1.45,
            round(high.per_prefill_chip, 3),
            relative=0.05,
            note=slow,
        ),
        near(
            "16 SN40L over 8 B200, one user: bf16, 5 µs",
            0.79,
            round(speed(BF16_70B._replace(kv_token_bytes=163_840.0), lossless, 1), 3),
            relative=0.05,
        ),
        near(
            "16 SN40L over 8 B200, one user: 8-bit, 5 µs",
            1.5,
            round(speed(LLAMA_70B, lossless, 1), 3),
            relative=0.05,
        ),
        near("the same at batch 50", 1.0, round(speed(LLAMA_70B, lossless, 50), 3), relative=0.05),
    ]


def _sn50(catalogue: Catalogue) -> list[Checked]:
    sn50, sn40l, b300 = (catalogue.chip(name) for name in ("SN50", "SN40L", "B300"))
    own = sn50.bandwidth_bytes_per_s
    sram = sn50.tier("sram")
    size = sram.capacity.base if sram is not None and sram.capacity is not None else 0.0
    missing = missing_inputs([sn50, b300])
    claim = "not reproducible from published specifications"
    return [
        near(
            "SN50 over SN40L: HBM bandwidth",
            1.12,
            round(own / sn40l.bandwidth_bytes_per_s, 3),
            absolute=0.006,
        ),
        near(
            "SN50 over B300: HBM bandwidth", 0.23, round(own / b300.bandwidth_bytes_per_s, 3), absolute=0.005
        ),
        near("SN50 chips whose SRAM holds 70.6 GB", 164, ceil(70.6e9 / size)),
        near("SN50 chips whose SRAM holds it in fp4", 92, ceil(0.5625 * 70.6e9 / size)),
        near("GB in the SRAM of 256 SN50", 110, int(256 * size / 1e9)),
        holds("B300 + SN50 = 10×", claim, bool(missing), claim, note="; ".join(missing)),
        shown("SN50 '5× compute'", "2.5", "fp8 against the SN40L's bf16; bf16 to bf16 is 2.5×", "5"),
    ]
