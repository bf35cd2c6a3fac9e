"""The engine's answer depends on the sequence alone: any chunking, batch, block table or worker will do.

Also: copies, forgetting, and the errors of plans and models that are wrong.
"""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest
import torch

from diptych.adapters.native import NativeOptions, build_native_engine
from diptych.adapters.protocol import EngineAdapter
from diptych.domain.errors import Bug, SpecError
from diptych.domain.ids import RequestId
from diptych.domain.request import SamplingParams
from diptych.domain.step import NewSequence, Slice, StepPlan
from diptych.engine.engine import NativeEngine
from diptych.engine.kv_memory import KVMemory
from diptych.models.resolve import read_model_shape
from diptych.transfer.segment import SharedSegment
from support.engine_driver import GREEDY, EngineDriver, Track
from support.tiny_models import TINY_EXPERTS, write_config

OPTIONS = NativeOptions(load_format="dummy", block_tokens=8)
RANDOM = SamplingParams(
    max_tokens=64,
    seed=123,
    temperature=1.3,
    top_p=0.95,
    presence_penalty=0.4,
    frequency_penalty=0.2,
    repetition_penalty=1.1,
    logprobs=3,
    prompt_logprobs=1,
)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("model"), "Qwen3ForCausalLM")


@pytest.fixture
def engine(model_dir: Path) -> EngineAdapter:
    return build_native_engine(model_dir, OPTIONS, total_blocks=200)


def prompt_of(index: int, length: int) -> list[int]:
    return [(31 * i * (i + index) + 7 * index) % 160 for i in range(length)]


def run_alone(engine: EngineAdapter, prompt: list[int], steps: int) -> tuple[list[object], list[object]]:
    """Sampled tokens with log-probabilities, and prompt log-probabilities, of one undisturbed request."""
    driver = EngineDriver(engine)
    track = driver.track("alone", prompt, RANDOM)
    result = driver.step((track, len(prompt)))
    later = [driver.step((track, 1)).sampled[track.request_id] for _ in range(steps - 1)]
    return [result.sampled[track.request_id], *later], list(result.prompt_logprobs.get(track.request_id, ()))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "architecture",
    ["Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "MixtralForCausalLM", "Gemma3ForCausalLM"],
)
def test_any_schedule_gives_the_same_bits(tmp_path: Path, architecture: str, seed: int) -> None:
    """Prompts are longer than the window of every second layer of Gemma 3."""
    model_dir, rng = write_config(tmp_path, architecture, **TINY_EXPERTS), random.Random(seed)
    lengths = [1, 6, 40, 75, 100]
    expected = [
        run_alone(build_native_engine(model_dir, OPTIONS, total_blocks=50), prompt_of(i, length), 8)
        for i, length in enumerate(lengths)
    ]
    driver = EngineDriver(build_native_engine(model_dir, OPTIONS, total_blocks=200))
    tracks = [driver.track(f"r{i}", prompt_of(i, n), RANDOM) for i, n in enumerate(lengths)]
    sampled: list[list[object]] = [[] for _ in tracks]
    prompts: list[list[object]] = [[] for _ in tracks]
    while any(len(track.output) < 8 for track in tracks):
        running = [i for i, track in enumerate(tracks) if len(track.output) < 8]
        chosen = rng.sample(running, rng.randint(1, len(running)))
        result = driver.step(*((tracks[i], rng.choice([1, 3, 17, 64])) for i in chosen))
        for i in chosen:
            prompts[i] += result.prompt_logprobs.get(tracks[i].request_id, ())
            sampled[i] += [result.sampled[r] for r in (tracks[i].request_id,) if r in result.sampled]
    for got, got_prompt, (want, want_prompt) in zip(sampled, prompts, expected, strict=True):
        assert got == want
        assert got_prompt == want_prompt


def test_two_engines_over_one_segment_continue_each_other(model_dir: Path) -> None:
    """Prefill here, decode there: blocks are borrowed, the partly filled one is copied."""
    layout = read_model_shape(model_dir).kv_layout(OPTIONS.block_tokens, "float32")
    segment = SharedSegment.create(layout.segment_bytes(32))
    prefill, decode = (
        build_native_engine(model_dir, OPTIONS, total_blocks=32, buffer=segment.buffer) for _ in range(2)
    )
    prompt = prompt_of(3, 21)
    driver = EngineDriver(prefill)
    track = driver.track("split", prompt, RANDOM)
    first = driver.step((track, 10))
    assert not first.sampled
    handed = driver.step((track, 11)).sampled[track.request_id]
    moved = Track("split", prompt, (*track.blocks[:2], 30, 31), RANDOM)
    moved.token_ids, moved.computed = list(track.token_ids), 21
    plan = StepPlan(
        step=0,
        copies=((track.blocks[2], 30),),
        new=(moved.announcement(),),
        slices=(moved.next_slice(1),),
    )
    result = decode.execute(plan)
    assert result.copied_bytes == layout.block_bytes
    expected, _ = run_alone(build_native_engine(model_dir, OPTIONS, total_blocks=50), prompt, 2)
    assert [handed, result.sampled[track.request_id]] == expected


def test_a_resumed_request_draws_what_it_would_have_drawn(engine: EngineAdapter) -> None:
    driver = EngineDriver(engine)
    track = driver.track("r", prompt_of(2, 30), RANDOM)
    driver.prefill(track, 30)
    driver.decode([track], 9)
    again = driver.track("again", prompt_of(2, 30), RANDOM)
    again.token_ids += track.output[:4]
    driver.step((again, 34))
    driver.decode([again], 5)
    assert again.output == track.output


def test_a_bounced_request_may_end_and_return_in_one_step(engine: EngineAdapter) -> None:
    driver = EngineDriver(engine)
    track = driver.track("r", prompt_of(1, 12), GREEDY)
    driver.prefill(track, 12)
    new = NewSequence(
        request_id=track.request_id, token_ids=tuple(track.token_ids), prompt_tokens=12, sampling=GREEDY
    )
    whole = Slice(
        request_id=track.request_id, token_ids=new.token_ids, start=0, block_table=track.blocks, sample=True
    )
    result = engine.execute(StepPlan(step=9, ended=(track.request_id,), new=(new,), slices=(whole,)))
    driver.step((track, 1))
    assert result.sampled[track.request_id].token_id == track.token_ids[-1]


def test_a_step_may_only_copy_and_end(engine: EngineAdapter) -> None:
    result = engine.execute(StepPlan(step=0, slices=(), ended=(RequestId("x"),), copies=((0, 1), (1, 2))))
    assert result.sampled == {} and result.copied_bytes == 2 * engine.layout.block_bytes


def test_warm_up_touches_no_shared_block(model_dir: Path) -> None:
    layout = read_model_shape(model_dir).kv_layout(OPTIONS.block_tokens, "float32")
    buffer = bytearray(b"\x07" * layout.segment_bytes(4))
    build_native_engine(model_dir, OPTIONS, total_blocks=4, buffer=buffer).warm_up()
    assert set(buffer) == {7}


def test_a_slice_of_an_unknown_sequence_is_a_bug(engine: EngineAdapter) -> None:
    piece = Slice(request_id=RequestId("ghost"), token_ids=(1,), start=0, block_table=(0,), sample=True)
    with pytest.raises(Bug, match="ghost: a slice of a sequence that was never announced"):
        engine.execute(StepPlan(step=0, slices=(piece,)))


def test_a_block_table_that_is_too_short_is_a_bug(engine: EngineAdapter) -> None:
    track = EngineDriver(engine).track("short", prompt_of(0, 20), GREEDY)
    track.blocks = track.blocks[:2]
    plan = StepPlan(step=0, new=(track.announcement(),), slices=(track.next_slice(20),))
    with pytest.raises(Bug, match="short: 20 tokens in 2 blocks"):
        engine.execute(plan)


def test_logits_that_are_not_finite_are_an_error(model_dir: Path) -> None:
    engine = build_native_engine(model_dir, OPTIONS, total_blocks=50)
    assert isinstance(engine, NativeEngine)
    engine._decoder._norms_after_D[-1][3] = float("nan")
    driver = EngineDriver(engine)
    with pytest.raises(SpecError, match="not finite in 1 of 1 rows"):
        driver.step((driver.track("r", [1, 2, 3], GREEDY), 3))


def test_a_buffer_that_is_too_small_is_refused(model_dir: Path) -> None:
    with pytest.raises(SpecError, match="8 blocks need"):
        build_native_engine(model_dir, OPTIONS, total_blocks=8, buffer=bytearray(100))


def test_bfloat16_runs_and_reports_its_kernels(model_dir: Path) -> None:
    lines: list[str] = []
    options = msgspec.structs.replace(OPTIONS, dtype="bfloat16")
    engine = build_native_engine(model_dir, options, total_blocks=50, report=lines.append)
    engine.warm_up()
    driver = EngineDriver(engine)
    track = driver.track("r", prompt_of(0, 50), GREEDY)
    driver.prefill(track, 20)
    driver.decode([track], 3)
    assert len(track.output) == 4
    assert engine.layout.dtype == "bfloat16"
    assert lines[0].startswith(("native kernels", "fast kernels"))


def test_kv_planes_lie_where_the_layout_says(model_dir: Path) -> None:
    layout = read_model_shape(model_dir).kv_layout(4, "float32")
    buffer = bytearray(layout.segment_bytes(3))
    memory = KVMemory.over(layout, 3, buffer)
    memory.layers[1].v_BKSE[0, 0, 0, 0] = 1.0
    start = layout.plane_offset_bytes(1, True, 3)
    assert torch.frombuffer(buffer, dtype=torch.float32).nonzero().flatten().tolist() == [start // 4]
