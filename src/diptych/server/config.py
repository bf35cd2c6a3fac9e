"""Settings of the HTTP server.

Knows: names, bounds, defaults and their reasons. Does not know: the cluster.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class ServerConfig(BaseModel):
    """Frozen; an unknown key is an error that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", description="Address to listen on; others can reach only theirs.")
    port: int = Field(default=8000, ge=0, le=65535, description="0 takes a free one.")
    root_path: str = Field(default="", description="Path prefix that a proxy in front strips.")
    api_keys: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), repr=False, description="Keys that clients may send; none: nobody is asked for one."
    )
    protect_metrics: bool = Field(default=False, description="Ask for a key at /metrics, too.")
    accept_any_model: bool = Field(
        default=False, description="Serve every model name with the one model, for tools with a fixed name."
    )
    max_body_bytes: int = Field(default=8 << 20, ge=1024, description="Longest request body.")
    max_sequences: int = Field(
        default=128, ge=1, description="Most sequences of one call: prompts times choices."
    )
    max_stops: int = Field(default=16, ge=1, description="Most stop strings of one call.")
    keep_alive_s: float = Field(
        default=15.0, gt=0, description="Comment line on a silent stream this often: proxies cut silent ones."
    )
    force_include_usage: bool = Field(
        default=False, description="Usage at the end of every stream; some clients never ask for it."
    )
    saturated_status: Literal[503, 429] = Field(
        default=503, description="HTTP status of a request that is refused for load."
    )
    reports: int = Field(default=1024, ge=0, description="Ended requests that /requests/{id} remembers.")
    shutdown_s: float = Field(
        default=30.0, gt=0, description="How long running answers may go on after a signal to stop."
    )
