"""Replayed decode steps equal the usual ones: padding, batch sizes, memory that stays in place.

On a CPU a graph is emulated by running the recorded function again over the same memory, which is what a
replay does; whatever was not kept in place would show as a stale input.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import support.flashinfer_on_cpu as library
from diptych.domain.request import SamplingParams
from diptych.engine.engine import NativeEngine
from diptych.engine.graphs import GraphRunner, batch_sizes
from diptych.engine.kv_memory import KVMemory
from diptych.kernels.cuda import CudaKernels
from diptych.kernels.flashinfer_paged import FlashInferAttention
from diptych.kernels.gathered import GatheredAttention
from diptych.models.load import load_decoder
from diptych.models.resolve import read_model_shape
from support.engine_driver import GREEDY, EngineDriver, Track
from support.tiny_models import write_config

CPU = torch.device("cpu")
BLOCK_TOKENS, BLOCKS, MOST_ROWS = 8, 200, 9
LOGPROBS = SamplingParams(max_tokens=64, seed=0, temperature=0.0, logprobs=2)
PROMPT_LOGPROBS = SamplingParams(max_tokens=64, seed=0, temperature=0.0, prompt_logprobs=0)


class Again:
    """A recorded function, run again."""

    def __init__(self, run: Callable[[], Tensor]) -> None:
        self._run = run
        self.replays = 0

    def replay(self) -> Tensor:
        self.replays += 1
        return self._run()


class EagerCapture:
    """Implements `Capture`; counts."""

    def __init__(self) -> None:
        self.graphs: list[Again] = []

    def capture(self, run: Callable[[], Tensor]) -> Again:
        run()
        self.graphs.append(Again(run))
        return self.graphs[-1]

    @property
    def replays(self) -> int:
        return sum(graph.replays for graph in self.graphs)


class Pair:
    """The same model twice: with graphs and without."""

    def __init__(self, model_dir: Path, kernels: CudaKernels, dtype: torch.dtype = torch.float32) -> None:
        shape = read_model_shape(model_dir)
        self.layout = shape.kv_layout(BLOCK_TOKENS, str(dtype).split(".")[-1])
        self.capture = EagerCapture()
        decoder, _ = load_decoder(model_dir, shape, kernels, dtype=dtype, device=CPU, load_format="dummy")
        self.memory = KVMemory.allocate(self.layout, BLOCKS + 1, CPU)
        self.runner = GraphRunner(decoder, self.memory, kernels, self.capture, CPU, MOST_ROWS)
        self.graphed = NativeEngine(decoder, self.memory, CPU, exact=False, graphs=self.runner)
        plain = KVMemory.allocate(self.layout, BLOCKS, CPU)
        self.plain_memory = plain
        self.plain = NativeEngine(decoder, plain, CPU, exact=False)


def tiny(folder: Path, architecture: str = "Qwen3ForCausalLM", **more: object) -> Path:
    return write_config(folder, architecture, **more)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def windowed_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("gemma"), "Gemma3ForCausalLM")


def gathered(most_positions: int = 1 << 18) -> CudaKernels:
    return CudaKernels(CPU, torch.float32, None, gathered=GatheredAttention(CPU, most_positions))


def drivers(pair: Pair, lengths: list[int]) -> list[tuple[EngineDriver, list[Track]]]:
    made: list[tuple[EngineDriver, list[Track]]] = []
    for engine in (pair.graphed, pair.plain):
        driver = EngineDriver(engine, most_tokens=96)
        made.append((driver, [driver.track(f"r{i}", _prompt(i, n), LOGPROBS) for i, n in enumerate(lengths)]))
    return made


def _prompt(index: int, length: int) -> list[int]:
    return [(31 * i * (i + index) + 7 * index + 3) % 160 for i in range(length)]


def test_batch_sizes() -> None:
    assert batch_sizes(64) == (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64)
    assert batch_sizes(13) == (1, 2, 4, 8, 13)
    assert batch_sizes(3) == (1, 2, 3)
    assert batch_sizes(1) == (1,)


@given(st.integers(1, 300))
def test_every_batch_fits_and_little_is_padded(most_rows: int) -> None:
    sizes = batch_sizes(most_rows)
    assert sizes[-1] == most_rows
    for rows in range(1, most_rows + 1):
        size = next(size for size in sizes if size >= rows)
        assert size < max(2 * rows, rows + 8)


steps = st.lists(
    st.tuples(
        st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True), st.sampled_from([1, 1, 1, 5, 30])
    ),
    min_size=3,
    max_size=12,
)


@pytest.mark.parametrize("kind", ["gathered", "little memory", "windows", "flashinfer"])
@settings(max_examples=25)
@given(lengths=st.lists(st.integers(1, 50), min_size=6, max_size=6), steps=steps)
def test_random_steps_equal_those_without_graphs(
    kind: str,
    lengths: list[int],
    steps: list[tuple[list[int], int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Prompts, chunks and decodes in any company and order: the same tokens, logprobs within rounding."""
    folder = tmp_path_factory.mktemp("model")
    if kind == "flashinfer":
        attention = FlashInferAttention(library, CPU, torch.bfloat16)
        kernels = CudaKernels(CPU, torch.bfloat16, attention)
        pair = Pair(tiny(folder, head_dim=64), kernels, torch.bfloat16)
    else:
        architecture = "Gemma3ForCausalLM" if kind == "windows" else "Qwen3ForCausalLM"
        pair = Pair(tiny(folder, architecture), gathered(64 if kind == "little memory" else 1 << 18))
    (graphed, with_graphs), (plain, without) = drivers(pair, lengths)
    decodes = 0
    for chosen, chunk in [*steps, (list(range(6)), 1), ([2], 1)]:
        decodes += all(len(without[i].token_ids) - without[i].computed == 1 for i in chosen)
        results = [
            driver.step(*((tracks[i], chunk) for i in chosen))
            for driver, tracks in ((graphed, with_graphs), (plain, without))
        ]
        assert results[0].sampled.keys() == results[1].sampled.keys()
        for name, found in results[0].sampled.items():
            wanted = results[1].sampled[name]
            assert found.logprob is not None and wanted.logprob is not None
            assert found.logprob.logprob == pytest.approx(wanted.logprob.logprob, abs=_tolerance(kind))
            if kind != "flashinfer":  # bfloat16 ties may fall either way
                assert found.token_id == wanted.token_id
        for one, other in zip(with_graphs, without, strict=True):
            one.token_ids = list(other.token_ids)
    if kind != "little memory":
        assert pair.capture.replays == decodes
    if kind == "gathered":
        for one, other in zip(pair.memory.planes(), pair.plain_memory.planes(), strict=True):
            torch.testing.assert_close(one[:BLOCKS], other, rtol=1e-4, atol=1e-4)


def _tolerance(kind: str) -> float:
    return 0.2 if kind == "flashinfer" else 1e-3


def test_a_pure_decode_is_replayed_and_nothing_else(model_dir: Path) -> None:
    pair = Pair(model_dir, gathered())
    driver = EngineDriver(pair.graphed)
    first, second = (driver.track(f"r{i}", _prompt(i, 20), GREEDY) for i in range(2))
    driver.step((first, 20))
    driver.step((second, 7))
    assert pair.capture.replays == 0
    driver.step((first, 1), (second, 13))
    assert pair.capture.replays == 0, "a prompt beside it"
    driver.step((first, 1), (second, 1))
    driver.step((first, 1))
    assert pair.capture.replays == 2
    third = driver.track("r2", _prompt(2, 3), GREEDY)
    driver.step((third, 1))
    assert pair.capture.replays == 2, "one token of a prompt is not followed by a sampled one"
    fourth = driver.track("r3", _prompt(3, 2), PROMPT_LOGPROBS)
    result = driver.step((fourth, 1))
    assert result.prompt_logprobs and pair.capture.replays == 2, "logprobs of a prompt are wanted"


def test_graphs_are_recorded_once_and_follow_sizes_and_lengths(model_dir: Path) -> None:
    pair = Pair(model_dir, gathered())
    pair.graphed.warm_up()
    sizes = batch_sizes(MOST_ROWS)
    assert pair.runner.graphs == len(pair.capture.graphs) == len(sizes)
    driver = EngineDriver(pair.graphed, most_tokens=72)
    tracks = [driver.track(f"r{i}", _prompt(i, 6), GREEDY) for i in range(MOST_ROWS)]
    for track in tracks:
        driver.prefill(track, 6)
    for _ in range(60):
        driver.decode(tracks, 1)
    widths = 5  # of the largest batch: 1, 2, 4, 8 and 16 blocks
    assert pair.runner.graphs == len(sizes) - 1 + widths
    assert pair.capture.replays == 60


def test_padding_stays_in_the_spare_block(model_dir: Path) -> None:
    pair = Pair(model_dir, gathered())
    driver = EngineDriver(pair.graphed)
    tracks = [driver.track(f"r{i}", _prompt(i, 11), GREEDY) for i in range(3)]
    for track in tracks:
        driver.prefill(track, 11)
    before = [plane.clone() for plane in pair.memory.planes()]
    driver.decode(tracks, 1)
    assert pair.capture.replays == 1, "three rows in a graph of four"
    own = {(track.blocks[11 // BLOCK_TOKENS], 11 % BLOCK_TOKENS) for track in tracks}
    for old_BKSE, new_BKSE in zip(before, pair.memory.planes(), strict=True):
        changed = (old_BKSE != new_BKSE).any(-1).any(1).nonzero().tolist()
        assert {(block, slot) for block, slot in changed} == own | {(BLOCKS, 0)}


def test_more_sequences_than_the_largest_graph_run_as_usual(model_dir: Path) -> None:
    pair = Pair(model_dir, gathered())
    (graphed, with_graphs), (plain, without) = drivers(pair, [4] * (MOST_ROWS + 1))
    for driver, tracks in ((graphed, with_graphs), (plain, without)):
        for track in tracks:
            driver.prefill(track, 4)
        driver.decode(tracks, 2)
    assert pair.capture.replays == 0
    assert [track.output for track in with_graphs] == [track.output for track in without]


def test_windows_and_full_layers_share_a_graph(windowed_dir: Path) -> None:
    """Contexts beyond the window of every second layer, batches of changing size."""
    pair = Pair(windowed_dir, gathered())
    (graphed, with_graphs), (plain, without) = drivers(pair, [3, 25, 60])
    for driver, tracks in ((graphed, with_graphs), (plain, without)):
        for track in tracks:
            driver.prefill(track, 17)
        for count in (3, 1, 2, 3, 3):
            driver.decode(tracks[:count], 4)
    assert pair.capture.replays == 20
    assert [track.output for track in with_graphs] == [track.output for track in without]
