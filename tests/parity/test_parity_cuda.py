"""The checks that need a real CUDA device: kernels and the reference, graphs and plain steps, engines there
and on the CPU. Skipped where there is none; `tests/engine/test_engine_cuda_boundary.py` goes as far as one
can without.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given, settings

from diptych.adapters.native import NativeOptions, build_native_engine
from diptych.domain.request import SamplingParams
from diptych.domain.step import StepPlan
from diptych.engine.capture import CudaCapture
from diptych.engine.engine import NativeEngine
from diptych.engine.graphs import GraphRunner
from diptych.engine.inputs import pack_step
from diptych.engine.kv_memory import KVMemory
from diptych.engine.sequences import Sequences
from diptych.kernels.cuda import CudaKernels
from diptych.kernels.flashinfer_paged import FlashInferAttention, NoFlashInfer, load_flashinfer
from diptych.models.load import load_decoder
from diptych.models.resolve import read_model_shape
from support.engine_driver import EngineDriver
from support.needs_cuda import NEEDS_CUDA
from support.paged_world import PagedWorld, paged_worlds
from support.tiny_models import TINY_EXPERTS, write_config

pytestmark = NEEDS_CUDA

CUDA, CPU = torch.device("cuda:0"), torch.device("cpu")
BLOCK_TOKENS = 8
GREEDY = SamplingParams(max_tokens=64, seed=0, temperature=0.0, logprobs=2)
FLOAT32, BFLOAT16 = 1e-3, 0.2
"""Of a log-probability: sums in another order, and the policy of docs/numerics.md."""


@pytest.fixture(params=["torch", "flashinfer"])
def kernels(request: pytest.FixtureRequest) -> Iterator[CudaKernels]:
    """In bfloat16, both ways of attention."""
    if request.param == "torch":
        yield CudaKernels(CUDA, torch.bfloat16, None)
        return
    try:
        library = load_flashinfer()
    except NoFlashInfer as why:
        pytest.skip(f"needs FlashInfer: {why}")
    yield CudaKernels(CUDA, torch.bfloat16, FlashInferAttention(library, CUDA, torch.bfloat16))


@settings(max_examples=30)
@given(paged_worlds(widths=(64, 128)))
def test_attention_in_float32_equals_the_reference(world: PagedWorld) -> None:
    found_THE = world.run(CudaKernels(CUDA, torch.float32, None), "cuda:0")
    torch.testing.assert_close(found_THE, world.expected(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["decodes", "prompts", "mixed"])
@pytest.mark.parametrize("window", [None, 50])
def test_attention_in_bfloat16_equals_the_reference(
    kernels: CudaKernels, kind: str, window: int | None
) -> None:
    for seed in range(6):
        world = PagedWorld(seed, 2, 1 + seed, 64, 16, window, kind)
        found_THE = world.run(kernels, "cuda:0", torch.bfloat16)
        torch.testing.assert_close(found_THE, world.expected(), rtol=0, atol=0.05)


def test_the_forward_pass_waits_for_nothing(tmp_path: Path, kernels: CudaKernels) -> None:
    shape = read_model_shape(write_config(tmp_path, "Gemma3ForCausalLM", head_dim=64))
    decoder, _ = load_decoder(
        tmp_path, shape, kernels, dtype=torch.bfloat16, device=CUDA, load_format="dummy"
    )
    memory = KVMemory.allocate(shape.kv_layout(BLOCK_TOKENS, "bfloat16"), 65, CUDA)
    engine = NativeEngine(decoder, memory, CUDA, exact=False)
    engine.warm_up()
    driver, sequences = EngineDriver(engine), Sequences()
    tracks = [driver.track(f"r{i}", [(i + 7 * p) % 160 for p in range(20)], GREEDY) for i in range(3)]
    sequences.update((), [track.announcement() for track in tracks])
    plan = StepPlan(step=0, slices=tuple(track.next_slice(9 + i) for i, track in enumerate(tracks)))
    inputs = pack_step(plan, sequences, BLOCK_TOKENS, CUDA)
    decoder.forward(inputs.decoder, memory.layers)
    torch.cuda.set_sync_debug_mode("error")
    try:
        decoder.logits(decoder.forward(inputs.decoder, memory.layers))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("architecture", ["Qwen3ForCausalLM", "Gemma3ForCausalLM"])
def test_graphs_equal_steps_without_them(tmp_path: Path, architecture: str, kernels: CudaKernels) -> None:
    """Batches of changing size, prompts in between, contexts beyond the window; each token is the plain
    engine's, so that both stay on one text."""
    shape = read_model_shape(write_config(tmp_path, architecture, head_dim=64))
    decoder, _ = load_decoder(
        tmp_path, shape, kernels, dtype=torch.bfloat16, device=CUDA, load_format="dummy"
    )
    layout = shape.kv_layout(BLOCK_TOKENS, "bfloat16")
    held, plain = (KVMemory.allocate(layout, 129, CUDA) for _ in range(2))
    graphs = GraphRunner(decoder, held, kernels, CudaCapture(CUDA), CUDA, 6)
    engines = (
        NativeEngine(decoder, held, CUDA, exact=False, graphs=graphs),
        NativeEngine(decoder, plain, CUDA, exact=False),
    )
    engines[0].warm_up()
    recorded = graphs.graphs
    assert recorded == 4
    drivers = [EngineDriver(engine) for engine in engines]
    lengths = [3, 40, 17, 70, 1, 25]
    tracks = [
        [driver.track(f"r{i}", [(i + 7 * p) % 160 for p in range(n)], GREEDY) for i, n in enumerate(lengths)]
        for driver in drivers
    ]
    for batch, chunk in [(6, 30), (6, 30), (6, 30), (3, 1), (1, 1), (6, 1), (5, 1), (6, 1), (2, 1)] * 2:
        results = [
            driver.step(*((mine[i], chunk) for i in range(batch)))
            for driver, mine in zip(drivers, tracks, strict=True)
        ]
        for name, wanted in results[1].sampled.items():
            found = results[0].sampled[name]
            assert found.logprob is not None and wanted.logprob is not None
            assert found.logprob.logprob == pytest.approx(wanted.logprob.logprob, abs=BFLOAT16)
        for one, other in zip(*tracks, strict=True):
            one.token_ids = list(other.token_ids)
    assert graphs.graphs >= recorded


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Gemma3ForCausalLM", "Qwen3MoeForCausalLM"])
def test_greedy_tokens_in_float32_are_those_of_the_cpu(tmp_path: Path, architecture: str) -> None:
    """Along the CPU's text: the same token, with the same log-probability to a tolerance, wherever the two
    best are further apart than twice that. (In bfloat16: `test_parity_bfloat16.py`.)"""
    experts = TINY_EXPERTS if "Moe" in architecture else {}
    model_dir = write_config(tmp_path, architecture, head_dim=64, **experts)
    options = NativeOptions(load_format="dummy", dtype="float32", block_tokens=BLOCK_TOKENS, max_running=4)
    on_cuda = msgspec.structs.replace(options, device="cuda:0")
    drivers = [EngineDriver(build_native_engine(model_dir, it, total_blocks=64)) for it in (options, on_cuda)]
    drivers[1].engine.warm_up()
    prompts = [[(5 * i + 7 * p) % 160 for p in range(n)] for i, n in enumerate((4, 33, 60))]
    tracks = [[driver.track(f"r{i}", it, GREEDY) for i, it in enumerate(prompts)] for driver in drivers]
    sure = 0
    for chunk in [64, *[1] * 30]:
        wanted, found = (
            driver.step(*((track, chunk) for track in mine)).sampled
            for driver, mine in zip(drivers, tracks, strict=True)
        )
        for name, expected in wanted.items():
            logprob = found[name].logprob
            assert expected.logprob is not None and logprob is not None
            (_, best), (_, second) = expected.logprob.top
            if best - second > 2 * FLOAT32:
                sure += 1
                assert found[name].token_id == expected.token_id
                assert logprob.logprob == pytest.approx(best, abs=FLOAT32)
        for one, other in zip(*tracks, strict=True):
            other.token_ids = list(one.token_ids)
    assert sure > 80, "of 93"
