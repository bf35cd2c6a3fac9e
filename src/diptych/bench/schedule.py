"""Which requests of a workload are sent, and when they are due.

Knows: arrivals, limits in requests and seconds, rates, the model's longest request. Does not know: HTTP,
clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import msgspec

from diptych.domain.errors import SpecError
from diptych.workload.record import Arrival, Workload

MOST_REQUESTS = 1_000_000
"""A schedule is held in memory; a workload without an end is cut by a limit, not by this."""


@dataclass(frozen=True)
class Limits:
    """How much of a workload is sent, and how fast. Not given: all, at its own pace."""

    requests: int | None = None
    duration_s: float | None = None
    """Requests that are due later are not sent."""
    rate_rps: float | None = None
    """Mean rate to which the workload is stretched or squeezed; pauses inside sessions stay as they are."""


@dataclass(frozen=True, kw_only=True)
class Due:
    """One request of the schedule."""

    index: int
    t_s: float
    input_tokens: int
    output_tokens: int
    hash_ids: tuple[int, ...]
    session_id: str | None
    after: int | None = None
    """Index of the request of its session whose end it waits for."""
    delay_s: float = 0.0
    """Pause after that end."""


@dataclass(frozen=True)
class Schedule:
    """Requests by rising ``t_s``, counted from the first."""

    requests: tuple[Due, ...]
    block_tokens: int
    clamped: int = 0
    """Requests that were shortened to what the model can hold."""
    refused: int = 0
    """Requests that were left out because it can't hold them."""
    span_s: float = 0.0
    """From the first due moment to the last."""
    followers: dict[int, Due] = field(default_factory=dict)
    """By the index of the request that they wait for."""


def schedule_of(workload: Workload, limits: Limits, max_model_tokens: int | None, *, clamp: bool) -> Schedule:
    """Select, pace and fit. Raises `SpecError` when nothing is left to send."""
    arrivals = _paced(_selected(workload, limits), limits)
    if not arrivals:
        raise SpecError(f"workload {workload.name}: no request is due within the limits; raise --duration")
    fitting, clamped, refused = _fitting(arrivals, max_model_tokens, clamp=clamp)
    if not fitting:
        raise SpecError(
            f"workload {workload.name}: all {refused:,} requests are longer than the model's "
            f"{max_model_tokens:,} tokens (prompt + output); --clamp shortens them"
        )
    requests = _linked(fitting)
    return Schedule(
        requests=requests,
        block_tokens=workload.block_tokens,
        clamped=clamped,
        refused=refused,
        span_s=requests[-1].t_s,
        followers={request.after: request for request in requests if request.after is not None},
    )


def _selected(workload: Workload, limits: Limits) -> list[Arrival]:
    most = MOST_REQUESTS + 1 if limits.requests is None else limits.requests
    found: list[Arrival] = []
    for arrival in islice(workload, most):
        past = limits.duration_s is not None and arrival.t_s - _start_s(found, arrival) >= limits.duration_s
        if past and limits.rate_rps is None:
            break
        found.append(arrival)
    if len(found) > MOST_REQUESTS:
        raise SpecError(
            f"workload {workload.name}: over {MOST_REQUESTS:,} requests; limit it with --requests"
        )
    return found


def _start_s(found: Sequence[Arrival], first: Arrival) -> float:
    return found[0].t_s if found else first.t_s


def _paced(arrivals: list[Arrival], limits: Limits) -> list[Arrival]:
    """From zero on, at the wanted mean rate, within the duration."""
    if not arrivals:
        return []
    start_s = arrivals[0].t_s
    span_s = arrivals[-1].t_s - start_s
    factor = 1.0
    if limits.rate_rps is not None:
        if span_s <= 0:
            raise SpecError("--rate: the workload's requests are all due at once, so that it has no rate")
        factor = (len(arrivals) - 1) / span_s / limits.rate_rps
    paced = [replace_time(arrival, (arrival.t_s - start_s) * factor) for arrival in arrivals]
    return [one for one in paced if limits.duration_s is None or one.t_s < limits.duration_s]


def replace_time(arrival: Arrival, t_s: float) -> Arrival:
    """The same request at another time."""
    return msgspec.structs.replace(arrival, t_s=t_s)


def _fitting(arrivals: list[Arrival], longest: int | None, *, clamp: bool) -> tuple[list[Due], int, int]:
    """Requests that the model can hold, how many were shortened, how many left out. What is too long loses
    prompt; output only where it alone is too long."""
    kept: list[Due] = []
    clamped = refused = 0
    for index, arrival in enumerate(arrivals):
        due = _due(index, arrival)
        if longest is not None and due.input_tokens + due.output_tokens > longest:
            if not clamp:
                refused += 1
                continue
            clamped += 1
            output = min(due.output_tokens, longest - 1)
            due = replace(due, output_tokens=output, input_tokens=min(due.input_tokens, longest - output))
        kept.append(due)
    return kept, clamped, refused


def _due(index: int, arrival: Arrival) -> Due:
    """A prompt and an output have one token at least: no API takes less."""
    return Due(
        index=index,
        t_s=arrival.t_s,
        input_tokens=max(1, arrival.input_tokens),
        output_tokens=max(1, arrival.output_tokens),
        hash_ids=arrival.hash_ids,
        session_id=arrival.session_id,
        delay_s=-1.0 if arrival.delay_s is None else arrival.delay_s,
    )


def _linked(requests: list[Due]) -> tuple[Due, ...]:
    """Requests with a pause wait for the one before them in their session, if that is sent at all."""
    last: dict[str, int] = {}
    linked: list[Due] = []
    for request in requests:
        session = request.session_id
        waits = session is not None and request.delay_s >= 0
        after = last.get(session) if waits and session is not None else None
        linked.append(replace(request, after=after, delay_s=max(0.0, request.delay_s)))
        if session is not None:
            last[session] = request.index
    return tuple(linked)
