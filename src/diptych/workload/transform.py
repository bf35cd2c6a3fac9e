"""Workloads out of one workload: faster, longer, shorter, in part, over and over.

Knows: what each change does to instants, lengths, ids and sessions. Does not know: formats, several workloads
(see `mix`). Each is made as it is read; only `sort` holds a workload whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import msgspec

from diptych.domain.errors import SpecError
from diptych.workload.blocks import ID_MASK, MIXER
from diptych.workload.record import Arrival, Workload

replace = msgspec.structs.replace


@dataclass(frozen=True)
class Extent:
    """How far a workload goes."""

    requests: int
    first_s: float
    last_s: float

    @property
    def period_s(self) -> float:
        """Its span and one mean gap: after this it may begin anew without changing its rate."""
        span_s = self.last_s - self.first_s
        return span_s * self.requests / (self.requests - 1) if self.requests > 1 else 0.0

    @property
    def rate_rps(self) -> float:
        """Requests per second; 0 if they all come at once."""
        return self.requests / self.period_s if self.period_s > 0 else 0.0


def extent(workload: Workload) -> Extent:
    """Reads the workload once. Raises `SpecError` if it is empty."""
    requests, first_s, last_s = 0, 0.0, 0.0
    for arrival in workload:
        if not requests:
            first_s = arrival.t_s
        last_s = arrival.t_s
        requests += 1
    if not requests:
        raise SpecError(f"{workload.name}: has no requests")
    return Extent(requests, first_s, last_s)


def scale_rate(workload: Workload, factor: float) -> Workload:
    """``factor`` times as many requests a second. Pauses inside sessions belong to people and tools and
    stay."""
    _positive("factor", factor)
    note = f"rate scaled by {factor:g}"
    return _each(workload, lambda arrival: replace(arrival, t_s=arrival.t_s / factor), note)


def to_rate(workload: Workload, rate_rps: float) -> Workload:
    """Scaled to this mean rate. Reads the workload once beforehand."""
    _positive("rate", rate_rps)
    own_rps = extent(workload).rate_rps
    if not own_rps:
        raise SpecError(
            f"rate: {workload.name} has no times to scale; `synthetic:poisson,rate=…,lengths=FILE` gives some"
        )
    return scale_rate(workload, rate_rps / own_rps)


def scale_lengths(workload: Workload, input_factor: float = 1.0, output_factor: float = 1.0) -> Workload:
    """Longer or shorter prompts and outputs.

    Prompts keep their ids: the blocks grow or shrink with them, so the same share of each prompt is common.
    """
    _positive("input factor", input_factor)
    _positive("output factor", output_factor)
    block_tokens = max(1, round(workload.block_tokens * input_factor))

    def scaled(arrival: Arrival) -> Arrival:
        tokens = max(1, round(arrival.input_tokens * input_factor))
        if blocks := len(arrival.hash_ids):
            tokens = min(max(tokens, (blocks - 1) * block_tokens + 1), max(tokens, blocks * block_tokens))
        output_tokens = max(1, round(arrival.output_tokens * output_factor))
        most = arrival.max_tokens
        return replace(
            arrival,
            input_tokens=tokens,
            output_tokens=output_tokens,
            max_tokens=None if most is None else max(output_tokens, round(most * output_factor)),
        )

    note = (
        f"prompts scaled by {input_factor:g}, outputs by {output_factor:g}; blocks of {block_tokens} tokens"
    )
    return _each(workload, scaled, note, block_tokens)


def cut(
    workload: Workload, *, from_s: float = 0.0, to_s: float | None = None, requests: int | None = None
) -> Workload:
    """Only what arrives from ``from_s`` and before ``to_s``, ``requests`` at most; begins at 0 again."""
    if from_s < 0 or (to_s is not None and to_s <= from_s):
        raise SpecError(f"from {from_s:g} s to {to_s} s is empty; to must be later")
    if requests is not None and requests < 1:
        raise SpecError(f"requests: {requests} is not possible; at least 1")

    def arrivals() -> Iterator[Arrival]:
        return islice(within(), requests)

    def within() -> Iterator[Arrival]:
        for arrival in workload:
            if to_s is not None and arrival.t_s >= to_s:
                return
            if arrival.t_s >= from_s:
                yield replace(arrival, t_s=arrival.t_s - from_s) if from_s else arrival

    known = workload.requests
    whole = known is not None and requests is not None and not from_s and to_s is None
    end = "the end" if to_s is None else f"{to_s:g} s"
    most = "" if requests is None else f", {requests} requests at most"
    note = f"cut: from {from_s:g} s to {end}{most}"
    return _made(workload, arrivals, min(known or 0, requests or 0) if whole else None, note)


def repeat(workload: Workload, requests: int) -> Workload:
    """So many requests, by going through the workload again and again; one reader holds nothing of it.

    Each round has ids and sessions of its own: it finds nothing of the rounds before in a cache.
    """
    if requests < 1:
        raise SpecError(f"requests: {requests} is not possible; at least 1")
    period_s = extent(workload).period_s

    def arrivals() -> Iterator[Arrival]:
        return islice(rounds(workload, period_s), requests)

    return _made(workload, arrivals, requests, f"repeated to {requests} requests")


def rounds(workload: Workload, period_s: float) -> Iterator[Arrival]:
    """The workload for ever, a round after each period."""
    yield from workload
    turn = 1
    while True:
        for arrival in workload:
            yield own(replace(arrival, t_s=arrival.t_s + turn * period_s), turn)
        turn += 1


def own(arrival: Arrival, copy: int) -> Arrival:
    """The same request with ids and a session that no other copy has."""
    return replace(
        arrival,
        hash_ids=tuple((block + copy * MIXER) & ID_MASK for block in arrival.hash_ids),
        session_id=None if arrival.session_id is None else f"{arrival.session_id}#{copy}",
    )


def without_sessions(workload: Workload) -> Workload:
    """Every request on its own, at its instant; shared prefixes stay."""
    note = "sessions dropped: a request that waited for another one comes at its earliest instant"
    return _each(workload, lambda arrival: replace(arrival, session_id=None, delay_s=None), note)


def keep(workload: Workload, wanted: Callable[[Arrival], bool], reason: str) -> Workload:
    """Only the requests that are wanted; ``reason`` says in the notes which."""

    def arrivals() -> Iterator[Arrival]:
        return filter(wanted, workload)

    return _made(workload, arrivals, None, f"filtered: {reason}")


def sort(workload: Workload) -> Workload:
    """By rising instants, the first at 0 if it was before. Holds the workload whole while it is read."""

    def arrivals() -> Iterator[Arrival]:
        held = sorted(workload, key=lambda arrival: arrival.t_s)
        early_s = min(0.0, held[0].t_s) if held else 0.0
        return _shifted(held, early_s) if early_s else iter(held)

    return _made(workload, arrivals, workload.requests, "sorted by time")


def _shifted(held: Iterable[Arrival], by_s: float) -> Iterator[Arrival]:
    return (replace(arrival, t_s=arrival.t_s - by_s) for arrival in held)


def _each(
    workload: Workload, change: Callable[[Arrival], Arrival], note: str, block_tokens: int | None = None
) -> Workload:
    def arrivals() -> Iterator[Arrival]:
        return map(change, workload)

    return _made(workload, arrivals, workload.requests, note, block_tokens)


def _made(
    workload: Workload,
    arrivals: Callable[[], Iterator[Arrival]],
    requests: int | None,
    note: str,
    block_tokens: int | None = None,
) -> Workload:
    notes = (*workload.notes, note)
    return Workload(workload.name, arrivals, block_tokens or workload.block_tokens, requests, notes)


def _positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise SpecError(f"{name}: {value:g} is not possible; a number above 0")
