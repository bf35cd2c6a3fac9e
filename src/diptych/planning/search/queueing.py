"""Closed forms of waiting.

Knows: Erlang's C, the tail of the wait in a queue with general service, the normal distribution. Does not
know: what waits.

Sources: A. K. Erlang (1917) for the probability to wait with n servers; the wait with general arrivals and
service as the Markovian one times the mean of both squared variations (Allen and Cunneen, 1978), its tail
taken for exponential (exact for M/M/n)."""

from __future__ import annotations

from collections.abc import Sequence
from math import erf, exp, sqrt


def wait_probability(servers: int, load: float) -> float:
    """Erlang's C: an arrival finds all ``servers`` busy; ``load`` = arrival rate × mean service."""
    if load <= 0:
        return 0.0
    if load >= servers:
        return 1.0
    blocked = 1.0
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked / (1.0 - (load / servers) * (1.0 - blocked))


def share_in_time(
    services_s: Sequence[float], limits_s: Sequence[float], servers: int, rate_rps: float, burstiness: float
) -> float:
    """Share of requests whose wait and own service end within their limit, first come, first served.

    ``services_s`` stand for all requests, each as likely.
    """
    count = len(services_s)
    mean_s = sum(services_s) / count
    load = rate_rps * mean_s
    if load >= servers:
        return 0.0
    variation = sum(s * s for s in services_s) / count / (mean_s * mean_s) - 1.0 if mean_s > 0 else 0.0
    waits = wait_probability(servers, load)
    usual_s = mean_s * (burstiness + max(0.0, variation)) / 2.0 / (servers - load)
    total = 0.0
    for service_s, limit_s in zip(services_s, limits_s, strict=True):
        slack_s = limit_s - service_s
        if slack_s >= 0:
            total += 1.0 - waits * (exp(-slack_s / usual_s) if usual_s > 0 else 0.0)
    return total / count


def below(z: float) -> float:
    """The standard normal distribution function."""
    return 0.5 * (1.0 + erf(z / sqrt(2.0)))
