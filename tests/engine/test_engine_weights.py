"""Engines whose linear maps are rounded: same KV layout, same promises, answers close to the model's own."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import pytest
import torch

from diptych.adapters.native import NativeOptions, build_native_engine
from diptych.adapters.protocol import EngineAdapter
from diptych.domain.cluster import WeightFormat
from diptych.domain.request import Logprob, SamplingParams
from diptych.domain.step import StepPlan
from diptych.kernels.quantised import plain, rounded
from diptych.kernels.reference import ReferenceKernels
from diptych.models.packing import Packing
from diptych.models.resolve import read_model_shape
from diptych.transfer.segment import SharedSegment
from support.engine_driver import EngineDriver, Track
from support.tiny_models import write_config

PROMPT = [(31 * i * i + 7) % 160 for i in range(21)]
SCORED = SamplingParams(max_tokens=64, seed=0, temperature=0.0, logprobs=5)
NARROW: tuple[WeightFormat, ...] = ("int8", "int4")
DTYPES: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
CLOSE = {"same": 0.0, "int8": 0.05, "int4": 0.5}
"""How far a log-probability of the tiny random model may move."""

both_dtypes = pytest.mark.parametrize("dtype", DTYPES)
narrow = pytest.mark.parametrize("weights", NARROW)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("model"), "Qwen3ForCausalLM")


def _options(dtype: Literal["float32", "bfloat16"], weights: WeightFormat) -> NativeOptions:
    return NativeOptions(load_format="dummy", block_tokens=8, dtype=dtype, weights=weights, threads=1)


def _answer(engine: EngineAdapter, chunk: int, steps: int = 6) -> list[Logprob | None]:
    driver = EngineDriver(engine)
    track = driver.track("r", PROMPT, SCORED)
    found: list[Logprob | None] = []
    while len(found) < steps:
        sampled = driver.step((track, chunk if not found else 1)).sampled
        found += [sampled[track.request_id].logprob] if sampled else []
    return found


@both_dtypes
@narrow
def test_a_rounded_engine_answers_nearly_as_the_model_does(
    model_dir: Path, dtype: Literal["float32", "bfloat16"], weights: WeightFormat
) -> None:
    same, narrow = (
        build_native_engine(model_dir, _options(dtype, it), total_blocks=50) for it in ("same", weights)
    )
    assert narrow.layout == same.layout
    (first,), (other,) = (_answer(engine, 30, steps=1) for engine in (same, narrow))
    assert first and other and first != other
    apart = {
        token: abs(value - dict(other.top)[token]) for token, value in first.top if token in dict(other.top)
    }
    assert len(apart) >= 3 and max(apart.values()) < CLOSE[weights]


@narrow
def test_any_schedule_gives_the_same_bits(model_dir: Path, weights: WeightFormat) -> None:
    engine = build_native_engine(model_dir, _options("float32", weights), total_blocks=50)
    engine.warm_up()
    assert _answer(engine, 30) == _answer(engine, 4)


@both_dtypes
@narrow
def test_a_rounded_decode_goes_on_from_the_kv_of_an_unrounded_prefill(
    model_dir: Path, dtype: Literal["float32", "bfloat16"], weights: WeightFormat
) -> None:
    layout = read_model_shape(model_dir).kv_layout(8, dtype)
    segment = SharedSegment.create(layout.segment_bytes(64))

    def split(decode: WeightFormat) -> Logprob:
        engines = [
            build_native_engine(model_dir, _options(dtype, it), total_blocks=64, buffer=segment.buffer)
            for it in ("same", decode)
        ]
        driver = EngineDriver(engines[0], most_tokens=40)
        track = driver.track("split", PROMPT, SCORED)
        driver.step((track, 21))
        moved = Track("split", PROMPT, (*track.blocks[:2], 60, 61), SCORED)
        moved.token_ids, moved.computed = list(track.token_ids), 21
        plan = StepPlan(
            step=0,
            copies=((track.blocks[2], 60),),
            new=(moved.announcement(),),
            slices=(moved.next_slice(1),),
        )
        found = engines[1].execute(plan).sampled[track.request_id].logprob
        assert found is not None
        return found

    exact, narrow = split("same"), split(weights)
    assert exact != narrow
    apart = [abs(value - dict(narrow.top)[token]) for token, value in exact.top if token in dict(narrow.top)]
    assert len(apart) >= 3 and max(apart) < CLOSE[weights]


def test_the_head_keeps_eight_bits() -> None:
    weight_VD, kernels = torch.randn(50, 64), ReferenceKernels()
    kept: dict[WeightFormat, WeightFormat] = {"same": "same", "int8": "int8", "int4": "int8"}
    for weights, head in kept.items():
        packing = Packing(kernels, weights)
        assert torch.equal(packing.head(weight_VD).weight, plain(rounded(weight_VD, head), torch.float32))
        assert torch.equal(
            packing.linear(weight_VD).weight, plain(rounded(weight_VD, weights), torch.float32)
        )


def test_options_say_same_unless_told(model_dir: Path) -> None:
    options = NativeOptions(load_format="dummy", block_tokens=8)
    assert options.weights == "same"
    assert msgspec.structs.replace(options, weights="int4") == NativeOptions(
        load_format="dummy", block_tokens=8, weights="int4"
    )
