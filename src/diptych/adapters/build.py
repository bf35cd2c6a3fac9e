"""From an engine description to a running engine.

Knows: which kinds of engine exist, and imports only the one that is asked for (torch stays out of processes
that do not need it). Does not know: pools, roles, processes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, assert_never

import msgspec

from diptych.adapters.modelled import ModelledAdapter, ModelledEngine, modelled_layout, steps_for
from diptych.adapters.native import NativeOptions, build_native_engine
from diptych.adapters.protocol import EngineAdapter
from diptych.adapters.toy import ToyAdapter, ToyEngine, toy_layout
from diptych.domain.cluster import WeightFormat
from diptych.domain.errors import Bug


class NativeEngine(msgspec.Struct, frozen=True, tag="native", kw_only=True):
    """The built-in engine; fields as in `diptych.domain.cluster.ModelSpec`, ``model_dir`` resolved."""

    model_dir: str
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    load_format: Literal["auto", "dummy"] = "auto"
    numerics: Literal["auto", "invariant", "fast"] = "auto"
    weights: WeightFormat = "same"
    """As in `diptych.domain.cluster.PoolSpec`."""
    device: str = "cpu"
    """As `diptych.domain.cluster.PoolSpec.torch_device`."""


EngineSpec: TypeAlias = NativeEngine | ToyEngine | ModelledEngine
"""What to build, in a form that travels over the wire. Closed: names of code never travel."""


def owns_kv_memory(spec: EngineSpec) -> bool:
    """Whether the engine keeps its KV on a device of its own instead of in the segment of the host."""
    return isinstance(spec, NativeEngine) and spec.device != "cpu"


class EngineMemory(msgspec.Struct, frozen=True):
    """The memory that an engine gets: the mapped KV segment of its memory domain, a place for weights."""

    buffer: memoryview | None
    """None: it allocates on its device what it needs."""
    blocks: int
    block_tokens: int
    weights_fd: int | None = None
    """A memory file in which workers of the same engine keep one copy of their weights."""


class BuiltEngine(NamedTuple):
    """An engine and what it says of itself (numerics, kernels …), for people to read."""

    engine: EngineAdapter
    description: dict[str, str]


def build_engine(
    spec: EngineSpec,
    memory: EngineMemory,
    *,
    seed: int,
    threads: int,
    max_running: int,
    reached: Callable[[str], None] = lambda _: None,
) -> BuiltEngine:
    """The engine, weights loaded, for steps of up to ``max_running`` sequences. ``reached`` is told each
    stage that has ended. Raises `SpecError` when the model directory or a setting is wrong."""
    match spec:
        case ToyEngine():
            if memory.buffer is None:
                raise Bug("a toy engine without its segment")
            toy = ToyAdapter(spec, toy_layout(memory.block_tokens), memory.buffer, memory.blocks)
            return BuiltEngine(toy, {"engine": "toy", "numerics": "exact"})
        case ModelledEngine():
            modelled = ModelledAdapter(steps_for(spec), modelled_layout(memory.block_tokens), spec.vocab_size)
            return BuiltEngine(modelled, {"engine": "modelled", "numerics": "none: tokens mean nothing"})
        case NativeEngine():
            return _build_native(spec, memory, seed, threads, max_running, reached)
        case _:
            assert_never(spec)


def _build_native(
    spec: NativeEngine,
    memory: EngineMemory,
    seed: int,
    threads: int,
    max_running: int,
    reached: Callable[[str], None],
) -> BuiltEngine:
    options = NativeOptions(
        dtype=spec.dtype,
        load_format=spec.load_format,
        numerics=spec.numerics,
        weights=spec.weights,
        block_tokens=memory.block_tokens,
        device=spec.device,
        max_running=max_running,
        seed=seed,
        threads=threads,
    )
    lines: list[str] = []
    engine = build_native_engine(
        Path(spec.model_dir),
        options,
        total_blocks=memory.blocks,
        buffer=memory.buffer,
        weights_fd=memory.weights_fd,
        report=lines.append,
        reached=reached,
    )
    return BuiltEngine(
        engine, {"kernels": lines[0]} | {f"note {i}": line for i, line in enumerate(lines[1:], 1)}
    )
