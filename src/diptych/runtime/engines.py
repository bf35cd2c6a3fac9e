"""Which engine the workers run, and what the head must know of it without loading it.

Knows: model directories and `config.json`. Does not know: weights, torch, processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from diptych.adapters.build import EngineSpec, NativeEngine
from diptych.adapters.toy import ToyEngine, toy_layout
from diptych.domain.cluster import ClusterSpec
from diptych.domain.errors import SpecError
from diptych.domain.kv import KVLayout
from diptych.models.resolve import read_model_shape, resolve_model_dir
from diptych.performance.model_shape import ModelShape

EngineName: TypeAlias = Literal["native", "toy"] | ToyEngine
"""By name with its defaults, or a toy with settings of its own."""


@dataclass(frozen=True)
class EngineChoice:
    """The engine of all workers of a cluster."""

    engine: EngineSpec
    model_dir: Path
    shape: ModelShape
    layout: KVLayout
    max_model_tokens: int

    @property
    def name(self) -> str:
        """What kind of engine it is."""
        return "toy" if isinstance(self.engine, ToyEngine) else "native"


def choose_engine(spec: ClusterSpec, engine: EngineName) -> EngineChoice:
    """Read the model's shape and settle what the workers will build.

    Raises:
        SpecError: no such model directory, a config that is not supported, a limit beyond the model's.
    """
    model_dir = resolve_model_dir(spec.model.path)
    shape = read_model_shape(model_dir)
    built = _engine_spec(spec, engine, model_dir, shape)
    return EngineChoice(
        engine=built,
        model_dir=model_dir,
        shape=shape,
        layout=_layout(spec, built, shape),
        max_model_tokens=_max_model_tokens(spec, shape),
    )


def _engine_spec(spec: ClusterSpec, engine: EngineName, model_dir: Path, shape: ModelShape) -> EngineSpec:
    if isinstance(engine, ToyEngine):
        return engine
    if engine == "toy":
        return ToyEngine(vocab_size=shape.vocab)
    model = spec.model
    return NativeEngine(
        model_dir=str(model_dir), dtype=model.dtype, load_format=model.load_format, numerics=model.numerics
    )


def _layout(spec: ClusterSpec, engine: EngineSpec, shape: ModelShape) -> KVLayout:
    if isinstance(engine, ToyEngine):
        return toy_layout(spec.kv.block_tokens)
    return shape.kv_layout(spec.kv.block_tokens, shape.compute_dtype(spec.model.dtype))


def _max_model_tokens(spec: ClusterSpec, shape: ModelShape) -> int:
    wanted = spec.model.max_model_tokens
    if wanted is None:
        return shape.max_positions
    if wanted > shape.max_positions:
        raise SpecError(
            f"model.max_model_tokens {wanted} exceeds the model's {shape.max_positions} positions; lower it"
        )
    return wanted
