"""Draws of a workload: the same traffic with another seed, at another rate, or shifted.

Knows: how each kind of workload is drawn anew. Does not know: what serves it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from random import Random

import msgspec

from diptych.domain.errors import SpecError
from diptych.workload.making.synthetic import PREFIX
from diptych.workload.record import Arrival, Workload

MOST_READ = 50_000
"""Requests of a trace that are held: windows of it are the draws."""

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


class Traffic:
    """One workload of which draws can be taken.

    A generated one is generated again with another seed. Of a trace, draws are windows: equal prefixes stay
    together.
    """

    def __init__(
        self,
        spec: str,
        opener: Callable[[str], Workload],
        shift: Shift | None = None,
        name: str | None = None,
    ) -> None:
        self.spec = spec
        self.name = name or (spec if shift is None else shift.name)
        """As reports call it."""
        self.shift = shift
        self._opener = opener
        self._rows: list[Arrival] | None = None
        opened = opener(spec)
        self.block_tokens = opened.block_tokens
        self.notes = opened.notes

    def shifted(self, shift: Shift) -> Traffic:
        """The same traffic, longer."""
        return Traffic(self.spec, self._opener, shift)

    def draw(self, seed: int, requests: int) -> tuple[Arrival, ...]:
        """So many requests one after another, from time 0 on. Raises `SpecError` if there are fewer than
        two."""
        rows = (
            self._generated(seed, requests) if self.spec.startswith(PREFIX) else self._window(seed, requests)
        )
        if len(rows) < 2:
            raise SpecError(
                f"--workload {self.spec}: {len(rows)} requests are too few to plan from; at least 2"
            )
        begin_s = rows[0].t_s
        return tuple(self._changed(row, begin_s) for row in rows)

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

    def _changed(self, row: Arrival, begin_s: float) -> Arrival:
        shift = self.shift or Shift("")
        return msgspec.structs.replace(
            row,
            t_s=row.t_s - begin_s,
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


def at_rate(arrivals: Sequence[Arrival], rate_rps: float) -> tuple[Arrival, ...]:
    """The same requests at another mean rate; pauses inside a session stay as long as they are."""
    span_s = arrivals[-1].t_s
    if span_s <= 0:
        return tuple(arrivals)
    factor = (len(arrivals) - 1) / span_s / rate_rps
    return tuple(msgspec.structs.replace(row, t_s=row.t_s * factor) for row in arrivals)
