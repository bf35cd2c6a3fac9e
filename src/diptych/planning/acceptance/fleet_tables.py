"""T5's exact part, T6, T11: tables and closed forms over Splitwise's measurements and three traces.

Knows: the medians, equal budgets, caps and regret expected. Does not know: how a fleet behaves under load.
"""

from __future__ import annotations

from pathlib import Path

from diptych.planning.acceptance.files import azure, mooncake
from diptych.planning.acceptance.row import By, Row, Sheet
from diptych.planning.acceptance.rules.machine import A100, CAPPED, H100, read_machine
from diptych.planning.closed.budgets import (
    SPLITWISE_A100,
    SPLITWISE_H100,
    SPLITWISE_H100_CAPPED,
    cap_pool,
    equal_machines,
    machines_for,
    phase_to_cap,
)
from diptych.planning.closed.stranding import regret_matrix
from diptych.workload.shares import PhaseRates, prefill_share, rigid_over_pooled, share_range, windows

PROMPTS = (512, 1024, 2048, 4096, 8192)
PROMPT_MS = {
    A100: (93, 154, 274, 661, 1550),
    H100: (54, 78, 137, 390, 845),
    CAPPED: (70, 101, 178, 507, 1098),
}
BATCHES = (1, 16, 32, 64)
STEP_MS = {A100: (45, 50, 53, 72), H100: (30, 34, 39, 50), CAPPED: (30, 34, 39, 50)}


def medians(data: Path) -> list[Row]:
    """T5: medians of perf_model.csv to 1 ms."""
    sheet = Sheet("T5", By.DATA)
    found: list[Row] = []
    for name in (A100, H100, CAPPED):
        machine = read_machine(data, name)
        found += [
            sheet.near(f"{name}: prompt of {n}, ms", ms, machine.measured_prompt_s[n] * 1e3, absolute=1.0)
            for n, ms in zip(PROMPTS, PROMPT_MS[name], strict=True)
        ]
        found += [
            sheet.near(f"{name}: step of {b}, ms", ms, machine.step_s(b) * 1e3, absolute=1.0)
            for b, ms in zip(BATCHES, STEP_MS[name], strict=True)
        ]
    return found


def budgets(_data: Path) -> list[Row]:
    """T5: machines for an equal budget."""
    h100, a100, capped = SPLITWISE_H100, SPLITWISE_A100, SPLITWISE_H100_CAPPED
    sheet = Sheet("T5", By.CLOSED)
    return [
        sheet.exact("A100 for the power of 40 H100", 70, equal_machines(40, h100.power, a100.power)),
        sheet.exact("A100 for the cost of 40 H100", 86, equal_machines(40, h100.cost, a100.cost)),
        sheet.exact("capped for the power of 15 H100", 21, machines_for(15 * h100.power, capped.power)),
    ]


def caps(_data: Path) -> list[Row]:
    """T6: what capping decode saves."""
    full, capped = SPLITWISE_H100.power, SPLITWISE_H100_CAPPED.power
    sheet = Sheet("T6", By.CLOSED)
    found: list[Row] = []
    for prefill, decode, units, percent in ((36, 4, 1707, -3.0), (18, 22, 1470, -16.5)):
        effect = cap_pool("decode", prefill, decode, full, capped)
        found += [
            sheet.exact(f"{prefill}P/{decode}T, decode capped, units", units, round(effect.power)),
            sheet.near(f"{prefill}P/{decode}T, saved, %", percent, -100 * effect.saved_share, absolute=0.05),
            sheet.exact(f"{prefill}P/{decode}T, decode rate kept", 1.0, effect.decode_rate_factor),
        ]
    prompt = cap_pool("prefill", 36, 4, full, capped)
    chosen = phase_to_cap(36, 4, full, capped)
    label = chosen.assumption if chosen is not None else "nothing is capped"
    return [
        *found,
        sheet.near("prompt machines capped: time of a prompt", 1.30, 1 / prompt.prefill_rate_factor),
        sheet.holds(
            "only decode is capped",
            "prefill rate untouched",
            chosen is not None and chosen.prefill_rate_factor == 1.0,
        ),
        sheet.holds("the factor is labelled", "assumption", "assumed, not measured" in label, label),
    ]


SHARES = {"code": 0.862, "conv": 0.318, "Mooncake": 0.750}
KEPT = {
    "code": (1.00, 0.202, 0.550),
    "conv": (0.369, 1.00, 0.424),
    "Mooncake": (0.869, 0.367, 1.00),
    "30:70": (0.348, 0.943, 0.400),
    "50:50": (0.580, 0.733, 0.667),
    "70:30": (0.812, 0.440, 0.934),
}
FIXED = {"30:70": 0.30, "50:50": 0.50, "70:30": 0.70}
RANGES = {"code": (0.80, 0.90), "conv": (0.22, 0.48), "Mooncake": (0.71, 0.79)}
RATES = PhaseRates(prefill_tokens_per_s=2048 / 0.137, decode_tokens_per_s=64 / 0.0502)
"""One H100 machine, linear: 2,048 prompt tokens in 137 ms, 64 sequences a step of 50.2 ms (T5's table)."""


def stranding(data: Path) -> list[Row]:
    """T11: shares, regret, and how little one trace's windows strand."""
    sheet = Sheet("T11", By.DATA)
    traces = {"code": azure(data, "code"), "conv": azure(data, "conv"), "Mooncake": mooncake(data)}
    found: list[Row] = []
    shares: dict[str, float] = {}
    worst = 0.0
    for name, trace in traces.items():
        by_minute = windows(trace, RATES)
        shares[name] = prefill_share(by_minute)
        found.append(sheet.near(f"{name}: prefill share", SHARES[name], shares[name], absolute=0.005))
        low, high = share_range(by_minute)
        shown = f"{low:.2f}–{high:.2f}"
        good = all(abs(a - b) <= 0.015 for a, b in zip((low, high), RANGES[name], strict=True))
        expected = "–".join(f"{value:.2f}" for value in RANGES[name])
        found.append(sheet.holds(f"{name}: share of 60-s windows, p5–p95", expected, good, shown))
        extra = 100 * (rigid_over_pooled(by_minute) - 1)
        worst = max(worst, extra)
        found.append(
            sheet.holds(
                f"{name}: more p95 capacity for a rigid split, %",
                "1–12",
                0.5 <= extra <= 12.5,
                f"{extra:.1f}",
            )
        )
    for row in regret_matrix(shares, FIXED):
        for served, expected in zip(SHARES, KEPT[row.sized_for], strict=True):
            found.append(
                sheet.near(
                    f"sized for {row.sized_for}, serves {served}", expected, row.kept[served], absolute=0.005
                )
            )
    return found
