"""From a spec to the workers of a simulated cluster.

Knows: pools, how much KV a worker holds, which `StepModel` gives its seconds, where memory domains end. Does
not
know: time, requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from diptych.domain.cluster import ClusterSpec, PoolSpec
from diptych.domain.errors import SpecError
from diptych.domain.ids import DomainId, WorkerId
from diptych.domain.worker import Arena, Role, WorkerInfo
from diptych.performance.steps import FittedSteps, StepModel, steps_of_rates
from diptych.scheduling import SchedulerConfig

SHARED = DomainId("shared")
"""The one memory domain of a cluster without a link."""

DEFAULT_LAYERS = 32
"""Layers that leave one by one, where no model says how many there are."""


@dataclass(frozen=True)
class Member:
    """One worker as it will join."""

    pool: PoolSpec
    info: WorkerInfo
    config: SchedulerConfig
    model: StepModel


@dataclass(frozen=True)
class Fleet:
    """All workers, and what one token of KV weighs."""

    members: tuple[Member, ...]
    kv_bytes_per_token: int
    layers: int
    max_model_tokens: int


def build_fleet(spec: ClusterSpec, step_models: Mapping[str, StepModel] | None = None) -> Fleet:
    """The workers of ``spec``; ``step_models`` by pool name wins over what the pools say.

    Raises:
        SpecError: a pool says nothing of its speed, or holds too little KV for a single block.
    """
    models = {pool.name: _model(spec, pool, step_models or {}) for pool in spec.pools}
    token_bytes = max((_kv_bytes(pool, models[pool.name]) for pool in spec.pools), default=0) or 1
    members: list[Member] = []
    start = 0
    for pool in spec.pools:
        blocks = models[pool.name].kv_tokens // spec.kv.block_tokens
        if blocks < 1:
            raise SpecError(
                f"pool {pool.name!r} holds {models[pool.name].kv_tokens} tokens of KV, "
                f"less than one block of kv.block_tokens = {spec.kv.block_tokens}"
            )
        for index in range(pool.workers):
            members.append(_member(spec, pool, index, models[pool.name], Arena(start, blocks), token_bytes))
            start += blocks
    layers = max((getattr(model, "layers", 0) for model in models.values()), default=0) or DEFAULT_LAYERS
    longest = max(member.config.arena.blocks for member in members) * spec.kv.block_tokens
    return Fleet(tuple(members), token_bytes, layers, spec.model.max_model_tokens or longest)


def _member(
    spec: ClusterSpec, pool: PoolSpec, index: int, model: StepModel, arena: Arena, token_bytes: int
) -> Member:
    worker_id = WorkerId(f"{pool.name}-{index}")
    block_bytes = token_bytes * spec.kv.block_tokens
    config = SchedulerConfig(
        arena,
        spec.kv.block_tokens,
        pool.token_budget,
        pool.max_running,
        block_bytes,
        prompt_cache=spec.kv.prompt_cache,
        chunked_prefill=pool.chunked_prefill,
    )
    info = WorkerInfo(
        worker_id=worker_id,
        incarnation=1,
        pool=pool.name,
        role=Role(pool.role),
        domain_id=SHARED if spec.link is None else DomainId(worker_id),
        arena=arena,
        block_tokens=spec.kv.block_tokens,
        block_bytes=block_bytes,
        token_budget=pool.token_budget,
        max_running=pool.max_running,
        device="modelled",
    )
    return Member(pool, info, config, model)


def _model(spec: ClusterSpec, pool: PoolSpec, given: Mapping[str, StepModel]) -> StepModel:
    if pool.name in given:
        return given[pool.name]
    if pool.profile is not None:
        return FittedSteps(pool.profile)
    if pool.rates is not None:
        return steps_of_rates(pool.rates)
    if pool.device is not None:
        from diptych.planning.devices import device_steps

        if pool.weights != "same":
            raise SpecError(
                f"pool {pool.name!r}: weights: {pool.weights} is how the built-in engine rounds them, which "
                f"says nothing of {pool.device.chip}; give device.weights (bf16, fp8 or fp4) instead"
            )
        return device_steps(spec.model.path, pool.device)
    raise SpecError(
        f"pool {pool.name!r} says nothing of its speed: give it 'device' (catalogue hardware), "
        "'profile' (measured, `diptych calibrate` writes one) or 'rates'"
    )


def _kv_bytes(pool: PoolSpec, model: StepModel) -> int:
    measured = pool.profile or pool.rates
    return measured.kv_bytes_per_token if measured is not None else int(getattr(model, "kv_token_bytes", 0))
