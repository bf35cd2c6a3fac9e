"""Draws of a workload: the same traffic with another seed, at another rate, or shifted.

Knows: how each kind of workload is drawn anew, sessions laid out in time. Does not know: what serves it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from random import Random
from typing import NamedTuple

import msgspec

from diptych.domain.errors import SpecError
from diptych.workload.making.synthetic import PREFIX
from diptych.workload.record import Arrival, Workload

MOST_READ = 50_000
"""Requests of a trace that are held: windows of it are the draws."""

SESSIONS_LONGER = 8
"""Draws of sessions are so many times longer than a run: at any moment many sessions are under way, and a run
begins in the middle of them."""

_DRAWN = re.compile(r",(requests|duration_s|seed)=([^,()]*)")


@dataclass(frozen=True)
class Shift:
    """Traffic with longer prompts or longer outputs."""

    name: str
    input_factor: float = 1.0
    output_factor: float = 1.0


MORE_PREFILL = Shift("prompts × 2", input_factor=2.0)
LESS_DECODE = Shift("outputs ÷ 2", output_factor=0.5)
MORE_DECODE = Shift("outputs × 2", output_factor=2.0)
SHIFTS = (MORE_PREFILL, LESS_DECODE, MORE_DECODE)


class Offer(NamedTuple):
    """One request: when it or its session begins, and how long after that it comes."""

    start_s: float
    offset_s: float
    arrival: Arrival


class Draw(NamedTuple):
    """Requests in the order of the workload."""

    offers: tuple[Offer, ...]
    block_tokens: int
    sessions: bool
    calls: float = 1.0
    """Requests of a session."""

    @property
    def arrivals(self) -> tuple[Arrival, ...]:
        """Without times."""
        return tuple(offer.arrival for offer in self.offers)

    @property
    def rate_rps(self) -> float:
        """Requests per second as drawn."""
        span_s = self.offers[-1].start_s - self.offers[0].start_s
        return (len(self.offers) - 1) / span_s if span_s > 0 else 1.0

    def at_rate(self, rate_rps: float, requests: int) -> list[Arrival]:
        """So many requests at this mean rate, from time 0 on.

        Sessions begin more often; what happens inside one keeps its distances. A run of them is cut from
        the end of the draw, where as many sessions end as begin."""
        factor = self.rate_rps / rate_rps
        if not self.sessions:
            return [
                msgspec.structs.replace(it.arrival, t_s=it.start_s * factor) for it in self.offers[:requests]
            ]
        end_s = self.offers[-1].start_s * factor
        timed = sorted((it.start_s * factor + it.offset_s, number) for number, it in enumerate(self.offers))
        kept = [pair for pair in timed if pair[0] <= end_s][-requests:]
        begin_s = kept[0][0]
        return [msgspec.structs.replace(self.offers[n].arrival, t_s=t_s - begin_s) for t_s, n in kept]


class Traffic:
    """One workload of which draws can be taken.

    A generated one is generated again with another seed. Of a trace, draws are windows: equal prefixes stay
    together. ``pace``: seconds that a request and each of its output tokens are taken to last when a
    session's next request waits for it."""

    def __init__(
        self,
        spec: str,
        opener: Callable[[str], Workload],
        shift: Shift | None = None,
        name: str | None = None,
        pace: tuple[float, float] = (1.0, 0.02),
    ) -> None:
        self.spec = spec
        self.name = name or (spec if shift is None else shift.name)
        """As reports call it."""
        self.shift = shift
        self.pace = pace
        self._opener = opener
        self._rows: list[Arrival] | None = None
        opened = opener(spec)
        self.block_tokens = opened.block_tokens
        self.notes = opened.notes

    def shifted(self, shift: Shift) -> Traffic:
        """The same traffic, longer or shorter."""
        return Traffic(self.spec, self._opener, shift, pace=self.pace)

    def draw(self, seed: int, requests: int) -> Draw:
        """So many requests or, of sessions, `SESSIONS_LONGER` times as many. Raises `SpecError` if there are
        fewer than two."""
        generated = self.spec.startswith(PREFIX)
        rows = self._generated(seed, requests) if generated else self._window(seed, requests)
        if any(row.delay_s is not None for row in rows):
            longer = SESSIONS_LONGER * requests
            rows = self._generated(seed, longer) if generated else self._window(seed, longer)
        if len(rows) < 2:
            few = f"{len(rows)} requests are too few to plan from; at least 2"
            raise SpecError(f"--workload {self.spec}: {few}")
        rows = [self._changed(row) for row in rows]
        offers = self._laid_out(rows)
        names = {row.session_id for row in rows if row.session_id is not None}
        sessions = any(offer.offset_s for offer in offers)
        return Draw(tuple(offers), self.block_tokens, sessions, len(rows) / len(names) if sessions else 1.0)

    def _laid_out(self, rows: Sequence[Arrival]) -> list[Offer]:
        """Each request of a session comes when the one before it would have ended, and the pause has
        passed."""
        request_s, token_s = self.pace
        begun: dict[str, float] = {}
        offset: dict[str, float] = {}
        origin_s = rows[0].t_s
        offers: list[Offer] = []
        for row in rows:
            name, start_s, offset_s = row.session_id, row.t_s - origin_s, 0.0
            if name is not None:
                if row.delay_s is not None and name in begun:
                    offset_s = max(start_s - begun[name], offset[name] + row.delay_s)
                    start_s = begun[name]
                begun.setdefault(name, start_s)
                offset[name] = offset_s + request_s + token_s * row.output_tokens
            open_loop = msgspec.structs.replace(row, session_id=None, delay_s=None)
            offers.append(Offer(start_s, offset_s, open_loop))
        return offers

    def _generated(self, seed: int, requests: int) -> list[Arrival]:
        given = dict(_DRAWN.findall(self.spec))
        base = int(given["seed"]) if given.get("seed", "").isdigit() else 0
        text = f"{_DRAWN.sub('', self.spec)},requests={requests},seed={base + seed}"
        return list(self._opener(text))

    def _window(self, seed: int, requests: int) -> list[Arrival]:
        if self._rows is None:
            self._rows = list(islice(iter(self._opener(self.spec)), MOST_READ))
        rows = self._rows
        if len(rows) <= requests:
            return rows if seed == 0 else _other_gaps(rows, seed)
        start = Random(f"{seed}/window").randrange(len(rows) - requests + 1) if seed else 0
        return rows[start : start + requests]

    def _changed(self, row: Arrival) -> Arrival:
        shift = self.shift
        if shift is None:
            return row
        return msgspec.structs.replace(
            row,
            input_tokens=max(1, round(row.input_tokens * shift.input_factor)),
            output_tokens=max(1, round(row.output_tokens * shift.output_factor)),
        )


def _other_gaps(rows: Sequence[Arrival], seed: int) -> list[Arrival]:
    """A short trace with its gaps in another order."""
    gaps = [b.t_s - a.t_s for a, b in pairwise(rows)]
    Random(f"{seed}/gaps").shuffle(gaps)
    t_s = rows[0].t_s
    made = [rows[0]]
    for row, gap in zip(rows[1:], gaps, strict=True):
        t_s += gap
        made.append(msgspec.structs.replace(row, t_s=t_s))
    return made
