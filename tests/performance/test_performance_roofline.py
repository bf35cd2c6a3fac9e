"""The roofline: its parts, its lines, what fits, and how parallelism moves work."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.domain.errors import SpecError
from diptych.domain.fleet import DeviceSpec
from diptych.performance.roofline import larger, smaller, window_area
from diptych.performance.roofline_steps import RooflineSteps, roofline_steps
from diptych.performance.steps import Chunk, run_s
from diptych.performance.work import Layout, recipe, room, work
from diptych.planning.library import load_catalogue, load_efficiencies, load_model

CATALOGUE, EFFICIENCIES = load_catalogue(), load_efficiencies()
DEVICES = (
    ("llama-3.1-70b", DeviceSpec(chip="H100-SXM", tensor_parallel=4, weights="fp8", kv="fp8")),
    ("llama-3.1-70b", DeviceSpec(chip="B200-SXM", tensor_parallel=2, pipeline_parallel=4, weights="bf16")),
    ("gpt-oss-120b", DeviceSpec(chip="B200-SXM", weights="fp4", engine="trtllm")),
    (
        "deepseek-v3",
        DeviceSpec(
            chip="GB200", attention_data_parallel=16, expert_parallel=16, weights="fp8", engine="sglang"
        ),
    ),
    ("glm-5", DeviceSpec(chip="B300-SXM", tensor_parallel=8, weights="fp8", engine="sglang")),
    ("qwen3.5-397b-a17b", DeviceSpec(chip="H200-SXM", tensor_parallel=8, weights="fp8", engine="nobody's")),
)


def steps_of(name: str, device: DeviceSpec) -> RooflineSteps:
    return roofline_steps(load_model(name), CATALOGUE.chip(device.chip), device, EFFICIENCIES)


STEPS = [steps_of(name, device) for name, device in DEVICES]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(STEPS), st.integers(1, 4096), st.integers(0, 10**7))
def test_lines_are_the_step(steps: RooflineSteps, decodes: int, context: int) -> None:
    lines = steps.decode_lines(decodes)
    highest = max(line.fixed_s + line.per_context_token_s * context for line in lines)
    assert steps.step_s((), decodes, context) == pytest.approx(highest, rel=1e-12)
    assert steps.cost((), decodes, context).total_s == pytest.approx(highest, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(STEPS), st.integers(1, 300), st.integers(0, 10**6), st.integers(1, 40))
def test_a_run_of_steps_is_their_sum(steps: RooflineSteps, decodes: int, context: int, count: int) -> None:
    one_by_one = math.fsum(steps.step_s((), decodes, context + decodes * i) for i in range(count))
    assert run_s(steps.decode_lines(decodes), decodes, context, count) == pytest.approx(one_by_one, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(STEPS), st.integers(1, 8192), st.integers(0, 30_000), st.integers(0, 200))
def test_more_work_takes_no_less_time(steps: RooflineSteps, new: int, cached: int, decodes: int) -> None:
    context = 1000 * decodes
    base = steps.step_s([Chunk(new, cached)], decodes, context)
    assert 0.0 < base < math.inf
    assert steps.step_s([Chunk(2 * new, cached)], decodes, context) >= base
    assert steps.step_s([Chunk(new, cached + 512)], decodes, context) >= base
    assert steps.step_s([Chunk(new, cached)], decodes + 1, context + 1000) >= base
    if decodes:
        assert base >= steps.step_s((), decodes, context)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(STEPS),
    st.lists(st.tuples(st.integers(1, 4096), st.integers(0, 9000)), min_size=1, max_size=4),
    st.integers(0, 300),
)
def test_the_short_way_is_the_long_way(
    steps: RooflineSteps, chunks: list[tuple[int, int]], decodes: int
) -> None:
    parts = [Chunk(new, cached) for new, cached in chunks]
    cost = steps.cost(parts, decodes, 700 * decodes)
    assert steps.step_s(parts, decodes, 700 * decodes) == pytest.approx(cost.total_s, rel=1e-12)


@pytest.mark.parametrize("chip", CATALOGUE.names)
def test_every_chip_answers_or_says_what_is_missing(chip: str) -> None:
    device = DeviceSpec(chip=chip, tensor_parallel=16, weights="fp8", kv="fp8")
    try:
        steps = steps_of("llama-3.1-70b", device)
    except SpecError as error:
        assert "is not published" in str(error) or "does not fit" in str(error)
        return
    assert 0 < steps.step_s((), 8, 8_000) < 1
    assert 0 < steps.relative_error < 1
    assert steps.grounds


def test_an_unpublished_link_is_an_assumption_in_words() -> None:
    steps = steps_of("llama-3.1-70b", DeviceSpec(chip="SN40L", tensor_parallel=16))
    assert steps.assumptions == (
        "SN40L: the scale-up link is not published; 64 GB/s (PCIe 5 x16) is assumed",
    )
    assert not STEPS[0].assumptions


def test_parts_are_kept_apart() -> None:
    cost = STEPS[0].cost([Chunk(2048, 0)], 32, 32_000)
    assert min(cost.compute_s, cost.memory_s, cost.network_s, cost.fixed_s) > 0
    busy = cost.compute_s + cost.network_s
    assert max(cost.memory_s, busy) + cost.fixed_s <= cost.total_s
    assert cost.total_s <= cost.memory_s + busy + cost.fixed_s


def test_nothing_takes_no_time() -> None:
    assert STEPS[0].step_s((), 0, 0) == 0.0
    assert STEPS[0].utilisation((), 0, 0) == (0.0, 0.0)


def test_prefill_uses_compute_and_decode_uses_bandwidth() -> None:
    """Section 12: one figure of utilisation says nothing; the two differ by phase."""
    one = steps_of("llama-3.1-70b", DeviceSpec(chip="H100-SXM", tensor_parallel=2, weights="fp8", kv="fp8"))
    prefill, decode = one.utilisation([Chunk(8192, 0)], 0, 0), one.utilisation((), 4, 4 * 1536)
    assert 0.35 <= prefill.compute <= 0.65
    assert decode.compute <= 0.02
    assert 0.5 <= decode.bandwidth <= 0.8
    assert prefill.bandwidth < 0.1


def test_apparent_bandwidth_use_falls_with_tensor_parallelism() -> None:
    """The fixed part of a step does not shrink with more chips."""
    used = [
        steps_of("llama-3.1-70b", DeviceSpec(chip="H100-SXM", tensor_parallel=tp, weights="fp8", kv="fp8"))
        .utilisation((), 4, 4 * 1536)
        .bandwidth
        for tp in (2, 4, 8)
    ]
    assert used == sorted(used, reverse=True)
    assert used[-1] < 0.7 * used[0]


def test_pipeline_stages_raise_throughput_and_not_speed() -> None:
    flat = steps_of("llama-3.1-70b", DeviceSpec(chip="H200-SXM", tensor_parallel=2, weights="fp8", kv="fp8"))
    deep = steps_of(
        "llama-3.1-70b",
        DeviceSpec(chip="H200-SXM", tensor_parallel=2, pipeline_parallel=4, weights="fp8", kv="fp8"),
    )
    assert deep.step_s((), 1, 2000) >= 0.98 * flat.step_s((), 1, 2000)
    assert deep.step_s((), 256, 512_000) < flat.step_s((), 256, 512_000)
    assert deep.step_s([Chunk(8192, 0)], 0, 0) < 0.5 * flat.step_s([Chunk(8192, 0)], 0, 0)
    assert deep.kv_tokens > 4 * flat.kv_tokens


def test_latent_kv_is_divided_by_ranks_and_not_by_tensor_parallelism() -> None:
    model, chip = load_model("deepseek-v3"), CATALOGUE.chip("B200")
    rec = recipe(model, chip, "fp8", "fp8")
    tensor, ranks = work(model, chip, Layout(tp=8), rec), work(model, chip, Layout(dp=8, ep=8), rec)
    assert tensor.context_bytes == pytest.approx(8 * ranks.context_bytes)
    assert ranks.others_bytes == pytest.approx(8 * tensor.others_bytes)
    assert tensor.experts_bytes == ranks.experts_bytes


def test_kv_heads_bound_how_far_kv_is_divided() -> None:
    model, chip = load_model("llama-3.1-70b"), CATALOGUE.chip("H100")
    rec = recipe(model, chip, "fp8", "fp8")
    per_token = [room(model, chip, Layout(tp=tp), rec).token_bytes for tp in (1, 4, 8, 16)]
    assert per_token == [163_840, 40_960, 20_480, 20_480]


def test_capacity_of_a_known_case() -> None:
    """(0.9 · 143,771 MiB − 70.6 GB − head and embeddings in bf16 − 2 GB) / 160 KiB, by hand."""
    one = steps_of("llama-3.1-70b", DeviceSpec(chip="H200-SXM", weights="fp8", kv="fp8"))
    weights = 70.553706496e9 + 2 * 1.050673152e9
    assert one.kv_tokens == int((0.9 * 143_771 * 2**20 - weights - 2e9) / 163_840)


def test_weights_that_do_not_fit_name_the_shortfall_and_the_remedy() -> None:
    with pytest.raises(
        SpecError, match=r"llama-3\.1-70b in bf16 .* GB more than .* smallest that fits is tensor_parallel 2$"
    ):
        steps_of("llama-3.1-70b", DeviceSpec(chip="H100-SXM", tensor_parallel=1))
    with pytest.raises(SpecError, match="tensor_parallel 8, pipeline_parallel 5"):
        steps_of("deepseek-v3", DeviceSpec(chip="L40S", tensor_parallel=1))


def test_what_was_measured_fits() -> None:
    """Rows of DeepSeek-V3 in fp8 on four B200 exist; the sheet's 180e9 bytes would refuse them."""
    device = DeviceSpec(chip="B200-SXM", tensor_parallel=4, weights="fp8", kv="fp8", engine="sglang")
    assert steps_of("deepseek-v3", device).kv_tokens > 32_000


def test_wrong_counts_name_the_field() -> None:
    with pytest.raises(SpecError, match=r"expert_parallel = 4: llama-3\.1-8b has no experts"):
        steps_of("llama-3.1-8b", DeviceSpec(chip="H100-SXM", expert_parallel=4))
    with pytest.raises(SpecError, match=r"tensor_parallel = 64: llama-3\.1-8b has 32 heads"):
        steps_of("llama-3.1-8b", DeviceSpec(chip="GB200", tensor_parallel=64))


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_arithmetic_extremes(a: float, b: float) -> None:
    assert larger(a, b) == pytest.approx(max(a, b), abs=1e-9)
    assert smaller(a, b) == pytest.approx(min(a, b), abs=1e-9)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 200))
def test_window_area_is_the_integral(start: int, length: int, window: int) -> None:
    """Exact for whole numbers: the trapezes of a function that is straight between them."""
    cells = range(start, start + length)
    want = sum((min(x, window) + min(x + 1, window)) / 2 for x in cells)
    assert window_area(start, start + length, window) == pytest.approx(want)
