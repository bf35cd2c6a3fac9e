"""T2: DistServe's fits, M/D/1 and its relatives, and the same queue simulated.

Knows: figures expected of the profile. Does not know: queues of anything but prompts of one length.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

from diptych.planning.acceptance.row import By, Row, Sheet
from diptych.planning.acceptance.rules.engine_fit import read_fit
from diptych.planning.closed.queueing import md1_ttft_s, tensor_parallel_ttft_s, two_stage_ttft_s

PROMPT = 512
ARRIVALS = 400_000
EXPECTED_MS = {
    5: (92.51, 59.02, 76.12),
    8: (121.39, 67.61, 79.47),
    10: (165.60, 76.25, 82.33),
}
"""req/s → mean TTFT of TP1, TP2, two stages."""


def rows(data: Path) -> list[Row]:
    """All of T2."""
    sheet = Sheet("T2", By.CLOSED)
    one, two = read_fit(data, "distserve", 1), read_fit(data, "distserve", 2)
    tp1_s, tp2_s = one.prefill_s([PROMPT]), two.prefill_s([PROMPT])
    speedup = tp1_s / tp2_s
    found = [
        sheet.near("OPT-13B prefill of 512, TP1, ms", 72.149, tp1_s * 1e3, absolute=0.01),
        sheet.near("OPT-13B prefill of 512, TP2, ms", 50.497, tp2_s * 1e3, absolute=0.01),
        sheet.near("decode TP1, 64 × 600 tokens, ms", 46.47, one.decode_s(64, 64 * 600) * 1e3, absolute=0.01),
    ]
    for rate, (tp1_ms, tp2_ms, stages_ms) in EXPECTED_MS.items():
        for name, expected, closed_s, servers in (
            ("TP1", tp1_ms, md1_ttft_s(tp1_s, rate), (tp1_s,)),
            ("TP2", tp2_ms, tensor_parallel_ttft_s(tp1_s, rate, speedup), (tp2_s,)),
            ("two stages", stages_ms, two_stage_ttft_s(tp1_s, rate), (tp1_s / 2, tp1_s / 2)),
        ):
            found.append(
                sheet.near(f"TTFT of {name} at {rate} req/s, ms", expected, closed_s * 1e3, absolute=0.01)
            )
            simulated_s = mean_ttft_s(servers, rate)
            found.append(
                Sheet("T2", By.RULES).near(
                    f"simulated {name} at {rate} req/s, ms", closed_s * 1e3, simulated_s * 1e3, relative=0.01
                )
            )
    return found


def mean_ttft_s(
    stages_s: tuple[float, ...], rate_rps: float, arrivals: int = ARRIVALS, seed: int = 1
) -> float:
    """Poisson arrivals through stages of constant service, first come first served."""
    draw, t_s, total_s = Random(seed), 0.0, 0.0
    free_s = [0.0] * len(stages_s)
    for _ in range(arrivals):
        t_s += draw.expovariate(rate_rps)
        at_s = t_s
        for stage, service_s in enumerate(stages_s):
            at_s = free_s[stage] = max(at_s, free_s[stage]) + service_s
        total_s += at_s - t_s
    return total_s / arrivals
