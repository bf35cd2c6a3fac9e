"""What a simulated run showed, in the form in which it is printed.

Knows: the fields and their units. Does not know: how they came about.
"""

from __future__ import annotations

import msgspec

from diptych.planning.measure import Summary


class PoolResult(msgspec.Struct, frozen=True, kw_only=True):
    """One pool over the whole run."""

    workers: int
    utilisation: float
    """Busy share of its workers' time."""
    busy_s: float
    prefill_s: float
    decode_s: float
    kv_peak_fraction: float
    """The fullest worker's held blocks at its fullest moment."""
    energy_j: float | None = None
    """None: the power of its hardware is not known."""
    cost: float | None = None
    """Money for the run; None: no price is known."""


class HandoffResult(msgspec.Struct, frozen=True, kw_only=True):
    """All handoffs. ``exposed_s``: from the end of prefill until decode may start."""

    count: int
    bytes: int
    exposed_s: Summary


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a run. Times in seconds of the run's clock; None where it never came so far."""

    number: int
    state: str
    arrival_s: float
    first_token_s: float | None = None
    last_token_s: float | None = None
    ended_s: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    prefill_worker: str | None = None
    decode_worker: str | None = None
    decode_wait_s: float | None = None
    """From arrival until decode memory was set aside (split pairs)."""
    handoff_s: float = 0.0
    error: str | None = None


class SimulationResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a run showed. Times in seconds; definitions as of the client's metrics."""

    requests: int
    completed: int
    rejected: int
    failed: int
    ttft_s: Summary
    tpot_s: Summary
    itl_s: Summary
    e2e_s: Summary
    goodput_rps: float
    slo_attainment: float
    output_tokens_per_s: float
    makespan_s: float
    pools: dict[str, PoolResult]
    prefix_hit_tokens: int
    prompt_tokens: int
    handoff: HandoffResult
    link_utilisation: float | None
    events: int
    wall_s: float
    records: tuple[RequestRecord, ...] = ()
