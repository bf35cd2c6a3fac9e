"""Which engine the workers run, and what the head must know of it without loading it.

Knows: model directories and `config.json`. Does not know: weights, torch, processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from diptych.adapters.build import EngineSpec, NativeEngine
from diptych.adapters.modelled import ModelledEngine, modelled_layout
from diptych.adapters.toy import ToyEngine, toy_layout
from diptych.builtin import builtin_model_dir
from diptych.domain.cluster import ClusterSpec, PoolSpec
from diptych.domain.errors import SpecError
from diptych.domain.fleet import ProfileSpec
from diptych.domain.kv import KVLayout
from diptych.domain.worker import Role
from diptych.models.resolve import read_model_shape, resolve_model_dir
from diptych.performance.model_shape import ModelShape


@dataclass(frozen=True)
class ModelledPools:
    """Cost models instead of devices: one profile for each pool, and the longest prompt plus output."""

    profiles: Mapping[str, ProfileSpec]
    max_model_tokens: int


EngineName: TypeAlias = Literal["native", "toy"] | ToyEngine | ModelledPools
"""By name with its defaults, a toy with settings of its own, or cost models."""


@dataclass(frozen=True)
class EngineChoice:
    """The engines of a cluster's workers."""

    engines: Mapping[str, EngineSpec]
    """By pool."""
    model_dir: Path
    shape: ModelShape
    layout: KVLayout
    max_model_tokens: int
    name: str
    """What kind of engine it is."""
    arena_blocks: Mapping[str, int] | None = None
    """Blocks of a worker by pool, where the engines say it; else the KV memory is dealt out."""


def choose_engine(spec: ClusterSpec, engine: EngineName) -> EngineChoice:
    """Read the model's shape and settle what the workers will build.

    Raises:
        SpecError: no such model directory, a config that is not supported, a limit beyond the model's.
    """
    if isinstance(engine, ModelledPools):
        _refuse_devices(spec, "modelled")
        _refuse_weights(spec, "modelled", "say the weights of the hardware (device.weights) instead")
        return _modelled(spec, engine)
    model_dir = resolve_model_dir(spec.model.path)
    shape = read_model_shape(model_dir)
    native = engine == "native"
    if native:
        _require_mixed(spec)
    else:
        _refuse_devices(spec, "toy")
        _refuse_weights(spec, "toy", "it has none; leave the key out")
    return EngineChoice(
        engines={pool.name: _engine_spec(spec, pool, engine, model_dir, shape) for pool in spec.pools},
        model_dir=model_dir,
        shape=shape,
        layout=_layout(spec, shape) if native else toy_layout(spec.kv.block_tokens),
        max_model_tokens=_max_model_tokens(spec, shape),
        name="native" if native else "toy",
    )


def _refuse_weights(spec: ClusterSpec, engine: str, remedy: str) -> None:
    for pool in spec.pools:
        if pool.weights != "same":
            key = f"pools.{pool.name}.weights"
            raise SpecError(f"{key}: the {engine} engine cannot hold weights in {pool.weights}; {remedy}")


def _refuse_devices(spec: ClusterSpec, engine: str) -> None:
    for pool in spec.pools:
        if pool.own_kv_memory:
            key = f"pools.{pool.name}.torch_device"
            raise SpecError(
                f"{key}: the {engine} engine has no use for {pool.torch_device!r}; leave the key out"
            )


def _require_mixed(spec: ClusterSpec) -> None:
    """Nobody can borrow blocks that only their owner can read."""
    for pool in spec.pools:
        if pool.own_kv_memory and pool.role is not Role.MIXED:
            raise SpecError(
                f"pools.{pool.name}.torch_device: a {pool.role.value} worker hands its KV over in the host's "
                f"shared memory, and that of {pool.torch_device!r} lies on the device; "
                "set the pool's role to mixed, or torch_device to cpu"
            )


def _modelled(spec: ClusterSpec, modelled: ModelledPools) -> EngineChoice:
    """The built-in model lends its tokens: the network itself is never loaded, so its name may be any."""
    model_dir = builtin_model_dir()
    shape = read_model_shape(model_dir)
    block_tokens = spec.kv.block_tokens
    return EngineChoice(
        engines={
            pool: ModelledEngine(profile=profile.model_dump_json(), vocab_size=shape.vocab)
            for pool, profile in modelled.profiles.items()
        },
        model_dir=model_dir,
        shape=shape,
        layout=modelled_layout(block_tokens),
        max_model_tokens=spec.model.max_model_tokens or modelled.max_model_tokens,
        name="modelled",
        arena_blocks={pool: profile.kv_tokens // block_tokens for pool, profile in modelled.profiles.items()},
    )


def _engine_spec(
    spec: ClusterSpec,
    pool: PoolSpec,
    engine: Literal["native", "toy"] | ToyEngine,
    model_dir: Path,
    shape: ModelShape,
) -> EngineSpec:
    if isinstance(engine, ToyEngine):
        return engine
    if engine == "toy":
        return ToyEngine(vocab_size=shape.vocab)
    model = spec.model
    return NativeEngine(
        model_dir=str(model_dir),
        dtype=model.dtype,
        load_format=model.load_format,
        numerics=model.numerics,
        weights=pool.weights,
        device=pool.torch_device,
    )


def _layout(spec: ClusterSpec, shape: ModelShape) -> KVLayout:
    """The same for all pools, in whatever numbers they hold their weights."""
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
