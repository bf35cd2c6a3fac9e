"""Waiting for prefill: one server, two stages, tensor parallel, and how many replicas.

Knows: M/D/1 and what follows from it. Does not know: where service times come from. Equations: latency model
§9,
after *DistServe* (OSDI 2024, §3.1).
"""

from __future__ import annotations

from math import ceil

from diptych.domain.errors import SpecError
from diptych.planning.closed.checks import not_negative, positive

AIMED_LOAD = (0.70, 0.80)
"""Share of its capacity at which to run a pool: below, hardware idles; above, waiting grows steeply (latency
model
§9, 2026)."""


def md1_ttft_s(service_s: float, arrivals_per_s: float) -> float:
    """Mean TTFT of a prefill server with constant service: ``D + λD²/(2(1 − λD))``.

    Raises:
        SpecError: the load is 1 or more: the queue has no mean.
    """
    _stable(service_s, arrivals_per_s, servers=1.0)
    load = arrivals_per_s * service_s
    return service_s + load * service_s / (2 * (1 - load))


def two_stage_ttft_s(service_s: float, arrivals_per_s: float) -> float:
    """Mean TTFT of a pipeline of two equal stages, ``service_s`` both together: ``D + λD²/(4(2 − λD))``."""
    _stable(service_s, arrivals_per_s, servers=2.0)
    load = arrivals_per_s * service_s
    return service_s + load * service_s / (4 * (2 - load))


def tensor_parallel_ttft_s(service_s: float, arrivals_per_s: float, speedup: float) -> float:
    """Mean TTFT where tensor parallelism divides the service by ``speedup``:
    ``D/K + λD²/(2K(K − λD))``."""
    positive(speedup=speedup)
    _stable(service_s, arrivals_per_s, servers=speedup)
    load = arrivals_per_s * service_s
    return service_s / speedup + load * service_s / (2 * speedup * (speedup - load))


def replicas(rate_rps: float, goodput_rps: float) -> int:
    """Replicas of a pool for a rate: ``⌈R/goodput⌉`` (DistServe's placement)."""
    not_negative(rate_rps=rate_rps)
    positive(goodput_rps=goodput_rps)
    return ceil(rate_rps / goodput_rps)


def _stable(service_s: float, arrivals_per_s: float, servers: float) -> None:
    positive(service_s=service_s)
    not_negative(arrivals_per_s=arrivals_per_s)
    if arrivals_per_s * service_s >= servers:
        most = servers / service_s
        raise SpecError(
            f"arrivals_per_s: {arrivals_per_s:g} overloads the server and its queue grows for ever; "
            f"stay below {most:g}"
        )
