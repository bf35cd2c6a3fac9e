"""The cluster, described and frozen: what `plan` writes, `simulate` runs in virtual time and `serve` for
real.

Knows: model, pools, limits and their defaults; every default's reason stands beside it. Does not know: files,
flags, environment.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from diptych.domain.fleet import DeviceSpec, LinkSpec, ProfileSpec, RatesSpec
from diptych.domain.worker import Role

BUILTIN_MODEL = "builtin"
"""The model name that means the model shipped with the package."""

WeightFormat: TypeAlias = Literal["same", "int8", "int4"]
"""In which numbers a pool holds the weights of its linear maps; 'same': in the model's dtype."""


class _Spec(BaseModel):
    """Frozen, and an unknown key is an error that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSpec(_Spec):
    """Which model, and in which numbers."""

    path: str = Field(default=BUILTIN_MODEL, description="Model directory, Hugging Face name, or 'builtin'.")
    served_names: tuple[str, ...] = Field(
        default=(), description="Names that clients may use; default: its own."
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="'auto': as config.json says."
    )
    load_format: Literal["auto", "dummy"] = Field(
        default="auto", description="'dummy' fills the model's real shape with seeded random weights."
    )
    numerics: Literal["auto", "invariant", "fast"] = Field(
        default="auto",
        description="'invariant': a row's result depends neither on the batch nor on the chunking. "
        "'auto': invariant in float32 on a CPU, fast otherwise.",
    )
    max_model_tokens: Annotated[int, Field(gt=0)] | None = Field(
        default=None, description="Longest prompt plus output; default: as config.json says."
    )


class PoolSpec(_Spec):
    """All workers of one role."""

    name: str = Field(min_length=1)
    role: Role
    workers: int = Field(default=1, ge=1, le=256)
    threads: int | None = Field(
        default=None, ge=1, description="Compute threads of a worker; default: its cores."
    )
    cores: tuple[tuple[int, ...], ...] | None = Field(
        default=None, description="Cores of each worker; default: the machine's cores dealt out in order."
    )
    token_budget: int = Field(
        default=512, ge=1, description="Most tokens of one step: the chunk size of prefill."
    )
    max_running: int = Field(default=64, ge=1, description="Most sequences of one step.")
    chunked_prefill: bool = Field(
        default=True, description="False: a prompt is never cut, and no decode shares a step with it."
    )
    weights: WeightFormat = Field(
        default="same",
        description="'int8', 'int4': linear maps are rounded when loaded; 'same': as model.dtype says.",
    )
    torch_device: str = Field(
        default="cpu",
        pattern=r"^(cpu|cuda(:\d+)?)$",
        description="Where the built-in engine computes: 'cpu', 'cuda' or 'cuda:1'. The KV of a CUDA device "
        "stays on it: mixed pools only.",
    )
    device: DeviceSpec | None = Field(default=None, description="Catalogue hardware of each worker.")
    profile: ProfileSpec | None = Field(default=None, description="Measured behaviour of each worker.")
    rates: RatesSpec | None = Field(default=None, description="Measured rates of each worker.")

    @property
    def own_kv_memory(self) -> bool:
        """Whether each worker keeps its KV in memory that no other worker can read."""
        return self.torch_device != "cpu"

    @model_validator(mode="after")
    def _one_description(self) -> PoolSpec:
        given = [name for name in ("device", "profile", "rates") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"pool {self.name!r} is described by {' and '.join(given)}; give one of them")
        return self

    @model_validator(mode="after")
    def _cores_for_each(self) -> PoolSpec:
        if self.cores is not None and len(self.cores) != self.workers:
            raise ValueError(f"pool {self.name!r} has {self.workers} workers but cores for {len(self.cores)}")
        return self


class KVSpec(_Spec):
    """KV memory of one memory domain."""

    block_tokens: int = Field(default=16, ge=1, le=1024)
    memory_bytes: int = Field(
        default=1 << 30,
        gt=0,
        description="Size of the shared segment; a decode worker gets half of another's part. A worker on a "
        "CUDA device has so much there.",
    )
    prompt_cache: bool = Field(
        default=True, description="Keep finished blocks so that equal prefixes are reused."
    )


class LimitsSpec(_Spec):
    """Bounds on waiting, silence and retries. All times in seconds."""

    queue_requests: int = Field(default=1024, ge=0, description="Most requests that wait for a place.")
    queue_tokens: int = Field(
        default=4_000_000, ge=0, description="Most prompt tokens that wait for a place."
    )
    queue_timeout_s: float = Field(default=600.0, gt=0)
    prefill_backlog_tokens: int = Field(
        default=2048,
        ge=1,
        description="A prefill worker with more prompt tokens than this gets no further request.",
    )
    output_reserve_tokens: int = Field(
        default=256, ge=1, description="Decode blocks reserved before prefill cover at most this much output."
    )
    heartbeat_interval_s: float = Field(default=0.5, gt=0)
    heartbeat_timeout_s: float = Field(
        default=5.0, gt=0, description="Silence after which a worker counts as hung."
    )
    stall_timeout_s: float = Field(
        default=120.0, gt=0, description="Longest step; a busy worker beyond it hangs."
    )
    placing_timeout_s: float = Field(default=10.0, gt=0)
    handoff_timeout_s: float = Field(default=60.0, gt=0)
    max_losses: int = Field(default=4, ge=0, description="Worker losses that one request may live through.")
    no_worker_timeout_s: float = Field(
        default=120.0, gt=0, description="How long requests wait for a worker to come back before they fail."
    )
    restart_backoff_s: float = Field(default=0.5, gt=0)
    restart_backoff_max_s: float = Field(default=30.0, gt=0)


class SloSpec(_Spec):
    """Latency targets."""

    ttft_s: float | None = Field(default=None, gt=0)
    tpot_s: float | None = Field(default=None, gt=0)


class ClusterSpec(_Spec):
    """One model on some pools."""

    model: ModelSpec = ModelSpec()
    pools: tuple[PoolSpec, ...] = (
        PoolSpec(name="prefill", role=Role.PREFILL),
        PoolSpec(name="decode", role=Role.DECODE),
    )
    kv: KVSpec = KVSpec()
    limits: LimitsSpec = LimitsSpec()
    slo: SloSpec = SloSpec()
    link: LinkSpec | None = Field(
        default=None,
        description="Path of KV between pools; default: they share memory and lend blocks.",
    )
    seed: int = 0

    @model_validator(mode="after")
    def _can_serve(self) -> ClusterSpec:
        names = [pool.name for pool in self.pools]
        if len(set(names)) != len(names):
            raise ValueError(f"pool names must differ: {names}")
        roles = {pool.role for pool in self.pools}
        if Role.MIXED not in roles and roles != {Role.PREFILL, Role.DECODE}:
            raise ValueError("a cluster needs a prefill and a decode pool, or a mixed one")
        return self
