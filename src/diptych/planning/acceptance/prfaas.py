"""T1: long prompts prefilled on H200, everything else on H20 (PrfaaS), in closed form.

Knows: the published inputs, and figures expected of them. Does not know: how a plan is searched
(`closed.offload`).
"""

from __future__ import annotations

from pathlib import Path

from diptych.planning.acceptance.row import By, Row, Sheet
from diptych.planning.closed.lengths import LogNormalLengths
from diptych.planning.closed.offload import (
    OffloadFleet,
    all_remote_rps,
    best_homogeneous,
    best_offload,
    best_threshold,
    offload_plan,
)
from diptych.planning.closed.polynomial import Polynomial, fit_polynomial

MIB = 1 << 20
KIBI = 1024
MEASURED = ((1, 190.8, 0.44), (8, 308.9, 0.72), (32, 701.3, 1.84), (128, 2316.3, 7.40))
"""Prompt in 1,024 tokens, KV in MiB, prefill seconds of one 8-GPU H200 instance (PrfaaS, 2026, published)."""


def published_fleet() -> OffloadFleet:
    """Four H200 instances that prefill, eight H20 instances, 100 Gb/s between them."""
    h200 = fit_polynomial([(KIBI * k, seconds) for k, _, seconds in MEASURED])
    kv = fit_polynomial([(KIBI * k, mib * MIB) for k, mib, _ in MEASURED])
    return OffloadFleet(
        lengths=LogNormalLengths(9.90, 1.0, 128, 131_072),
        remote_prefill_s=h200,
        local_prefill_s=h200.scaled(1.1661).plus(Polynomial((0.0, 85.27e-6))),
        decode_rps=0.782,
        kv_bytes=kv,
        link_bytes_per_s=100e9 / 8,
        remote_instances=4,
        local_instances=8,
    )


def rows(_data: Path) -> list[Row]:
    """All of T1; needs no data."""
    sheet = Sheet("T1", By.CLOSED)
    fleet = published_fleet()
    at = offload_plan(fleet, 19_400, 3)
    best = best_offload(fleet)
    remote_rps = fleet.remote_instances / fleet.lengths.mean(fleet.remote_prefill_s, low=19_400)
    prefill, homogeneous_rps = best_homogeneous(fleet, 12)
    share = fleet.lengths.share_beyond(at.threshold_tokens)
    return [
        sheet.near("p at t = 19,400", 0.4957, share, absolute=0.002),
        sheet.near("Θ remote, 4 H200, req/s", 1.607, remote_rps, relative=0.02, note="published 1.61"),
        sheet.near("best threshold, tokens", 19_450, best.threshold_tokens, relative=0.05),
        sheet.exact("best split, P+D", "3+5", f"{best.local_prefill}+{best.local_decode}"),
        sheet.near("Λ at the best, req/s", 3.241, best.throughput_rps, relative=0.01, note="published 3.24"),
        *(
            sheet.near(
                f"best Λ, {n} local prefill", rps, best_threshold(fleet, n).throughput_rps, relative=0.01
            )
            for n, rps in ((2, 2.991), (4, 3.128), (5, 2.346))
        ),
        sheet.near(
            "naive heterogeneous, req/s", 2.427, all_remote_rps(fleet), relative=0.02, note="published 2.45"
        ),
        sheet.exact("12 × H20 alone, P+D", "9+3", f"{prefill}+{12 - prefill}"),
        sheet.near("12 × H20 alone, req/s", 2.11, homogeneous_rps, relative=0.01),
        sheet.near(
            "egress at the best, Gb/s",
            12.2,
            best.egress_bytes_per_s * 8 / 1e9,
            relative=0.05,
            note="published 13",
        ),
    ]
