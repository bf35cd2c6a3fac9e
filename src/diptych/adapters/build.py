"""From an engine description to a running engine.

Knows: which kinds of engine exist, and imports only the one that is asked for (torch stays out of processes
that do not need it). Does not know: pools, roles, processes.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias, assert_never

import msgspec

from diptych.adapters.protocol import EngineAdapter
from diptych.adapters.toy import ToyAdapter, ToyEngine, toy_layout


class NativeEngine(msgspec.Struct, frozen=True, tag="native", kw_only=True):
    """The built-in engine; fields as in `diptych.domain.cluster.ModelSpec`, ``model_dir`` resolved."""

    model_dir: str
    dtype: str = "auto"
    load_format: str = "auto"
    numerics: str = "auto"
    device: str = "cpu"


EngineSpec: TypeAlias = NativeEngine | ToyEngine
"""What to build, in a form that travels over the wire. Closed: names of code never travel."""


class EngineMemory(msgspec.Struct, frozen=True):
    """The KV memory that an engine gets: the mapped segment of its memory domain."""

    buffer: memoryview
    blocks: int
    block_tokens: int


class BuiltEngine(NamedTuple):
    """An engine and what it says of itself (numerics, kernels …), for people to read."""

    engine: EngineAdapter
    description: dict[str, str]


def build_engine(spec: EngineSpec, memory: EngineMemory, *, seed: int, threads: int) -> BuiltEngine:
    """The engine, weights loaded. Raises `SpecError` when the model directory or a setting is wrong."""
    match spec:
        case ToyEngine():
            toy = ToyAdapter(spec, toy_layout(memory.block_tokens), memory.buffer, memory.blocks)
            return BuiltEngine(toy, {"engine": "toy", "numerics": "exact"})
        case NativeEngine():
            return _build_native(spec, memory, seed=seed, threads=threads)
        case _:
            assert_never(spec)


def _build_native(spec: NativeEngine, memory: EngineMemory, *, seed: int, threads: int) -> BuiltEngine:
    from diptych.domain.errors import SpecError

    raise SpecError("native engine")
