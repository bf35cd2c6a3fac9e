"""T13 on diptych's control plane.

Knows: the specs, and the test's seconds as a step model. Does not know: the reference rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from diptych.domain.worker import Role
from diptych.performance.steps import Chunks, Line, StepModel
from diptych.planning.acceptance.plane import pool, run, spec, split_spec
from diptych.planning.acceptance.row import By, Row, Sheet
from diptych.planning.acceptance.rules.coder import (
    COMBINED_DECODE,
    COMBINED_PREFILL,
    KV_TOKENS,
    LONGEST,
    coder_requests,
    prefill_s,
    step_s,
)
from diptych.planning.acceptance.rules.requests import Asked

GPUS = 8
SPLITS = ((6, 2), (4, 4), (2, 6))
RATES = (1.0, 1.3, 1.6)
SEED = 1
REQUESTS = 2000
SHOWN_NOTE = "one seed of 2,000 requests; decode KV is reserved before prefill, so it is held for longer"


@dataclass(frozen=True, slots=True)
class CoderSteps(StepModel):
    """T13's seconds. The cached share of a prompt is in them, not in the block pool."""

    prefill_factor: float = 1.0
    decode_factor: float = 1.0

    @property
    def kv_tokens(self) -> int:
        """See `StepModel`."""
        return KV_TOKENS

    def step_s(self, chunks: Chunks, decodes: int, context_tokens: int) -> float:
        """See `StepModel`."""
        decode_s = step_s(decodes, context_tokens) if decodes else 0.0
        prompt_s = sum(prefill_s(c + n) - (prefill_s(c) if c else 0.0) for n, c in chunks)
        return self.prefill_factor * prompt_s + self.decode_factor * decode_s

    def decode_lines(self, decodes: int) -> tuple[Line, ...]:
        """See `StepModel`."""
        empty_s = step_s(decodes, 0)
        token_s = (step_s(decodes, 1_000_000) - empty_s) / 1_000_000
        return (Line(self.decode_factor * empty_s, self.decode_factor * token_s),)


@dataclass(frozen=True, slots=True)
class _Seen:
    ttft_p50_s: float
    ttft_mean_s: float
    e2e_s: float
    completed_rps: float
    kv_wait_s: float
    binding: str

    def shown(self) -> str:
        """Mean TTFT and mean end."""
        return f"{self.ttft_mean_s:.2f} / {self.e2e_s:.2f}"


def rows_at(_data: Path, index: int) -> list[Row]:
    """One rate."""
    rate, sheet = RATES[index], Sheet("T13", By.PLANE)
    asked = coder_requests(rate, SEED, REQUESTS)
    got = {"combined": _combined(asked)}
    got |= {f"{p}:{d}": _split(asked, p, d) for p, d in SPLITS}
    found = [
        sheet.shown(
            f"{rate} req/s, {name}: TTFT p50 / mean, s",
            "see the rules",
            f"{it.ttft_p50_s:.2f} / {it.ttft_mean_s:.1f}",
            SHOWN_NOTE,
        )
        for name, it in got.items()
    ]
    combined = got.pop("combined")
    found += [
        sheet.holds(
            f"{rate} req/s: {name} does not beat combined",
            "higher mean TTFT and later ends",
            it.ttft_mean_s >= combined.ttft_mean_s and it.e2e_s >= combined.e2e_s,
            f"{it.shown()} against {combined.shown()} s",
        )
        for name, it in got.items()
    ]
    if rate == RATES[-1]:
        found += [
            sheet.near("2:6 saturates at, req/s", 0.80, got["2:6"].completed_rps, relative=0.05),
            sheet.exact("2:6 is held back by", "prefill", got["2:6"].binding),
            sheet.exact("6:2 is held back by", "decode KV", got["6:2"].binding),
        ]
    return found


def _combined(asked: list[Asked]) -> _Seen:
    cluster = spec(pool("mixed", Role.MIXED, GPUS))
    done = run(cluster, asked, {"mixed": CoderSteps(COMBINED_PREFILL, COMBINED_DECODE)})
    return _Seen(done.ttft_s.p50 or 0.0, done.ttft_s.mean or 0.0, done.e2e_s.mean or 0.0, 0.0, 0.0, "nothing")


def _split(asked: list[Asked], prefills: int, decodes: int) -> _Seen:
    models: dict[str, StepModel] = {"prefill": CoderSteps(), "decode": CoderSteps()}
    done = run(split_spec(None, prefills, None, decodes, budget=LONGEST), asked, models, keep=True)
    waits = [it.decode_wait_s for it in done.records if it.decode_wait_s is not None]
    ttft_s = done.ttft_s.mean or 0.0
    fullest, busiest = done.pools["decode"].kv_peak_fraction, done.pools["prefill"].utilisation
    waited_s = fmean(waits)
    binding = "nothing"
    if waited_s > 0.25 * ttft_s:
        binding = "prefill" if busiest > fullest else "decode KV"
    return _Seen(
        done.ttft_s.p50 or 0.0,
        ttft_s,
        done.e2e_s.mean or 0.0,
        done.completed / done.makespan_s,
        waited_s,
        binding,
    )
