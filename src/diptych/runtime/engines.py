"""Which engine the workers run, and what the head must know of it without loading it.

Knows: model directories and `config.json`. Does not know: weights, torch, processes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from diptych.adapters.build import EngineSpec, NativeEngine
from diptych.adapters.toy import ToyEngine, toy_layout
from diptych.domain.cluster import ClusterSpec
from diptych.domain.errors import SpecError
from diptych.domain.kv import KVLayout
from diptych.performance.model_shape import ModelShape, parse_model_shape
from diptych.runtime.model_files import resolve_model_dir

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
    shape = read_shape(model_dir)
    built = _engine_spec(spec, engine, model_dir, shape)
    return EngineChoice(
        engine=built,
        model_dir=model_dir,
        shape=shape,
        layout=_layout(spec, built, shape),
        max_model_tokens=_max_model_tokens(spec, shape),
    )


def read_shape(model_dir: Path) -> ModelShape:
    """Shape from ``config.json``, EOS ids from ``generation_config.json`` if there. Raises `SpecError`."""
    config_path = model_dir / "config.json"
    generation_path = model_dir / "generation_config.json"
    generation = _read_json(generation_path) if generation_path.exists() else None
    return parse_model_shape(_read_json(config_path), str(config_path), generation)


def _read_json(path: Path) -> dict[str, object]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(
            f"cannot read {path}: {error.strerror}; model.path must be a model directory"
        ) from None
    except ValueError as error:
        raise SpecError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(loaded, dict):
        raise SpecError(f"{path} must hold an object, not a {type(loaded).__name__}")
    return loaded


def _engine_spec(spec: ClusterSpec, engine: EngineName, model_dir: Path, shape: ModelShape) -> EngineSpec:
    if isinstance(engine, ToyEngine):
        return engine
    if engine == "toy":
        return ToyEngine(vocab_size=shape.vocab)
    return NativeEngine(
        model_dir=str(model_dir),
        dtype=spec.model.dtype,
        load_format=spec.model.load_format,
        numerics=spec.model.numerics,
    )


def _layout(spec: ClusterSpec, engine: EngineSpec, shape: ModelShape) -> KVLayout:
    if isinstance(engine, ToyEngine):
        return toy_layout(spec.kv.block_tokens)
    dtype = shape.dtype if spec.model.dtype == "auto" else spec.model.dtype
    return shape.kv_layout(spec.kv.block_tokens, dtype)


def _max_model_tokens(spec: ClusterSpec, shape: ModelShape) -> int:
    wanted = spec.model.max_model_tokens
    if wanted is None:
        return shape.max_positions
    if wanted > shape.max_positions:
        raise SpecError(
            f"model.max_model_tokens {wanted} exceeds the model's {shape.max_positions} positions; lower it"
        )
    return wanted
