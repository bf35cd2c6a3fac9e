"""The flags that several commands share, as plain dataclasses.

Knows: names, help texts. Does not know: defaults of the cluster (a flag that is not given is None, and
`diptych.cli.spec` leaves the spec's own default alone).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Group, Parameter

_CLUSTER = Group("Cluster")
_HTTP = Group("HTTP")
_LOGGING = Group("Logging")


@Parameter(name="*", group=_CLUSTER)
@dataclass(frozen=True, kw_only=True)
class ClusterFlags:
    """Overrides of the cluster spec."""

    prefill: int | None = None
    """Workers that prefill (default 1)."""
    decode: int | None = None
    """Workers that decode (default 1)."""
    mixed: int | None = None
    """Workers that do both; alone, this is monolithic serving."""
    dtype: Literal["auto", "float32", "bfloat16"] | None = None
    """Numbers of weights and KV."""
    load_format: Literal["auto", "dummy"] | None = None
    """'dummy': the model's real shape with seeded random weights."""
    numerics: Literal["auto", "invariant", "fast"] | None = None
    """'invariant': results depend neither on the batch nor on the chunking, bit for bit."""
    weights: Literal["same", "int8", "int4"] | None = None
    """Numbers of the linear maps of every pool; of one: --set pools.decode.weights=int8."""
    kv_memory: str | None = None
    """Size of the shared KV segment, such as 512MiB or 2GiB."""
    block_tokens: int | None = None
    """Tokens of one KV block."""
    chunk_tokens: int | None = None
    """Most tokens of one step of a worker."""
    max_model_tokens: int | None = None
    """Longest prompt plus output."""
    threads: int | None = None
    """Compute threads of each worker."""
    served_model_name: tuple[str, ...] = ()
    """Name that clients may use for the model; repeatable."""
    set: Annotated[tuple[str, ...], Parameter(name="--set")] = ()
    """Any key of the spec, such as limits.queue_requests=64 or pools.prefill.threads=2; repeatable."""


@Parameter(name="*", group=_HTTP)
@dataclass(frozen=True, kw_only=True)
class HttpFlags:
    """Where to listen, and who may call."""

    host: Annotated[str, Parameter(env_var="DIPTYCH_HOST", show_default=True)] = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Parameter(env_var="DIPTYCH_PORT", show_default=True)] = 8000
    """Port to listen on; 0 takes a free one."""
    api_key: tuple[str, ...] = ()
    """Key that clients may send; repeatable. Also from DIPTYCH_API_KEY, separated by commas, which keeps it
    out of the process list."""
    insecure: bool = False
    """Listen on an address that others can reach without asking for a key."""
    http: tuple[str, ...] = ()
    """Any other setting of the server, such as keep_alive_s=5 or accept_any_model=true; repeatable."""


@Parameter(name="*", group=_LOGGING)
@dataclass(frozen=True, kw_only=True)
class LogFlags:
    """What is logged, and how."""

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Parameter(env_var="DIPTYCH_LOG_LEVEL", show_default=True),
    ] = "info"
    """Least severity that is logged."""
    log_format: Annotated[
        Literal["text", "json"], Parameter(env_var="DIPTYCH_LOG_FORMAT", show_default=True)
    ] = "text"
    """Lines for people, or one JSON object per line."""
