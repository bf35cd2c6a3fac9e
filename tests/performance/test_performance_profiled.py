"""Placement's seconds from a step model, corrected by what workers report."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.domain.errors import Bug
from diptych.domain.fleet import DecodeFit, LinkSpec, PrefillFit, ProfileSpec
from diptych.domain.ids import WorkerId
from diptych.domain.worker import WorkerStats
from diptych.performance import profiled as module
from diptych.performance.profiled import Path, Profiled, ProfiledCost
from diptych.performance.steps import Chunk, Chunks, FittedSteps, Line, StepModel

A, B = WorkerId("a"), WorkerId("b")

STEPS = FittedSteps(
    ProfileSpec(
        prefill=PrefillFit(fixed_s=0.010, per_token_s=1e-4, per_token2_s=1e-8),
        decode=(DecodeFit(fixed_s=0.008, per_context_token_s=1e-7, per_sequence_s=1e-4),),
        kv_tokens=100_000,
    )
)


class Counting(StepModel):
    """A step model that counts its questions."""

    def __init__(self) -> None:
        self.asked = 0

    @property
    def kv_tokens(self) -> int:
        return 1000

    def step_s(self, chunks: Chunks, decodes: int, context_tokens: int) -> float:
        self.asked += 1
        return 0.001 * sum(new for new, _ in chunks)

    def decode_lines(self, decodes: int) -> tuple[Line, ...]:
        return (Line(0.010, 0.0), Line(0.0, 1e-5))


def cost_of(*, chunk_tokens: int | None = 512, path: Path | None = None) -> ProfiledCost:
    """Two equal workers."""
    worker = Profiled(STEPS, chunk_tokens, handoff_fixed_s=0.002, handoff_per_token_s=1e-7)
    return ProfiledCost({A: worker, B: worker}, path)


@given(
    new=st.integers(1, 20_000),
    cached=st.integers(0, 20_000),
    chunk=st.sampled_from([1, 16, 512, 2048, None]),
)
def test_a_prompt_costs_its_chunks_one_after_another(new: int, cached: int, chunk: int | None) -> None:
    size, done, seconds = chunk or new, 0, 0.0
    while done < new:
        piece = min(size, new - done)
        seconds += STEPS.step_s((Chunk(piece, cached + done),), 0, 0)
        done += piece
    assert cost_of(chunk_tokens=chunk).prefill_s(A, new, cached) == pytest.approx(seconds, rel=1e-9)
    assert cost_of().prefill_s(A, 0, cached) == 0.0


def test_workers_of_one_model_share_answers_and_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Counting()
    cost = ProfiledCost({name: Profiled(model, None) for name in (A, B)})
    assert cost.prefill_s(A, 100, 0) == cost.prefill_s(B, 100, 0) == pytest.approx(0.1)
    assert model.asked == 1
    monkeypatch.setattr(module, "KEPT_PROMPTS", 2)
    for new in (1, 2, 3):
        cost.prefill_s(A, new, 0)
    cost.prefill_s(A, 100, 0)
    assert model.asked == 5, "forgotten and asked again"


def test_a_decode_step_is_the_highest_of_the_models_lines() -> None:
    cost = ProfiledCost({A: Profiled(Counting(), None)})
    assert cost.decode_step_s(A, 1, 10) == pytest.approx(0.010)
    assert cost.decode_step_s(A, 1, 10_000) == pytest.approx(0.100)
    assert cost_of().decode_step_s(A, 4, 1000) == pytest.approx(STEPS.step_s((), 4, 1000))


def test_handoffs_inside_a_domain_and_over_a_link() -> None:
    link = LinkSpec(bandwidth_bytes_per_s=1e9, latency_s=1e-4, layerwise=False)
    cost = cost_of(path=Path(link, kv_bytes_per_token=100_000, layers=10))
    assert cost.handoff_s(A, 1000, None) == pytest.approx(0.0021)
    assert cost.handoff_s(A, 1000, 0.05) == pytest.approx(0.1001), "0.1 GB at 1 GB/s"
    link = LinkSpec(bandwidth_bytes_per_s=1e9, latency_s=1e-4, layerwise=True, residual_s=0.005)
    cost = cost_of(path=Path(link, kv_bytes_per_token=100_000, layers=10))
    assert cost.handoff_s(A, 1000, 0.05) == pytest.approx(0.1 - 0.045 + 0.0051)
    assert cost.handoff_s(A, 1000, 5.0) == pytest.approx(0.01 + 0.0051), "the last layer at least"
    assert cost_of().handoff_s(A, 1000, 0.05) == pytest.approx(0.0021), "no path is known"


def test_a_busy_link_is_learnt_as_what_it_takes_longer() -> None:
    cost = cost_of()
    for _ in range(100):
        cost.observe_handoff(B, 1000, 0.1, 0.0521)
    assert cost.handoff_s(B, 1000, 0.1) == pytest.approx(0.0521, rel=1e-3)
    assert cost.handoff_s(A, 1000, 0.1) == pytest.approx(0.0021), "by target"
    for _ in range(200):
        cost.observe_handoff(B, 1000, 0.1, 0.0)
    assert 0.0 <= cost.handoff_s(B, 1, 0.1) < 0.0021


def test_the_factors_follow_what_the_worker_takes() -> None:
    cost = cost_of()
    cost.prefill_s(A, 512, 0)
    cost.decode_step_s(A, 8, 8000)
    prefill_s = STEPS.step_s((Chunk(512, 256),), 0, 0)
    decode_s = STEPS.step_s((), 8, 8000)
    steps = decode_steps = 0
    for _ in range(400):
        steps, decode_steps = steps + 10, decode_steps + 10
        cost.observe(A, _stats(steps, decode_steps, decode_steps * 8, 1.5 * decode_s * decode_steps))
    assert cost.ratios(A) == (1.0, pytest.approx(1.5, rel=1e-2))
    assert cost.decode_step_s(A, 8, 8000) == pytest.approx(1.5 * decode_s, rel=1e-2)
    assert cost.ratios(B) == (1.0, 1.0)
    done = cost_of()
    done.prefill_s(B, 512, 0)
    for number in range(1, 400):
        done.observe(
            B,
            WorkerStats(
                steps=number, prefill_tokens_total=512 * number, prefill_s_total=0.8 * prefill_s * number
            ),
        )
    assert done.ratios(B) == (pytest.approx(0.8, rel=1e-2), 1.0)


def test_one_absurd_report_changes_little_and_a_restart_is_no_report() -> None:
    cost = cost_of()
    cost.decode_step_s(A, 1, 100)
    cost.observe(A, _stats(1, 1, 1, 1000.0))
    assert cost.ratios(A)[1] <= module.MOST_CORRECTION
    ratio = cost.ratios(A)[1]
    cost.observe(A, _stats(0, 0, 0, 0.0))
    cost.observe(A, _stats(0, 0, 0, 0.0))
    assert cost.ratios(A)[1] == ratio


def test_an_unknown_worker_is_a_bug() -> None:
    with pytest.raises(Bug, match="nothing is known of x's speed; known are a, b"):
        cost_of().prefill_s(WorkerId("x"), 1, 0)


def _stats(steps: int, decode_steps: int, decode_tokens: int, decode_s: float) -> WorkerStats:
    return WorkerStats(
        steps=steps,
        decode_steps_total=decode_steps,
        decode_tokens_total=decode_tokens,
        decode_s_total=decode_s,
    )
