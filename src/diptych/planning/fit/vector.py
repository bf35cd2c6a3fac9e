"""Many rows at once: the closed forms of `diptych.performance` over arrays.

Knows: how rows become arrays, that engines of one kind share efficiencies. Does not know: the fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from diptych.performance.closed_loop import (
    Clients,
    ClosedLoop,
    SplitClients,
    closed_loop,
    decode_step_s,
    split_loop,
)
from diptych.performance.efficiencies import Subject, choose, first_token_s, start_up, subject
from diptych.performance.roofline import Coefficients, Efficiencies, coefficients
from diptych.performance.work import Work, kv_tokens, room, work
from diptych.planning.fit.rows import Row

Array: TypeAlias = Any
"""A numpy array of floats (or truth values); the formulas take it where they take a float."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows as arrays. ``kind`` numbers the distinct engines among them."""

    rows: tuple[Row, ...]
    work: Work
    kinds: tuple[tuple[Subject, float | None], ...]
    """Who, and the rounds of its bench."""
    kind: Array
    clients: Array
    prompt: Array
    output: Array
    kv_tokens: Array
    workers: Array
    ttft_s: Array
    tpot_s: Array
    group: Array

    def take(self, chosen: Array) -> Table:
        """The rows where ``chosen`` is true."""
        return replace(
            self,
            rows=tuple(row for row, keep in zip(self.rows, chosen, strict=True) if keep),
            work=Work(*(_array(column)[chosen] for column in self.work)),
            kind=self.kind[chosen],
            clients=self.clients[chosen],
            prompt=self.prompt[chosen],
            output=self.output[chosen],
            kv_tokens=self.kv_tokens[chosen],
            workers=self.workers[chosen],
            ttft_s=self.ttft_s[chosen],
            tpot_s=self.tpot_s[chosen],
            group=self.group[chosen],
        )


def table(rows: Sequence[Row]) -> Table:
    """Arrays of ``rows``."""
    kinds: dict[tuple[Subject, float | None], int] = {}
    works: list[Work] = []
    kind: list[int] = []
    held: list[int] = []
    for row in rows:
        who = subject(row.model, row.chip, row.layout, row.recipe, row.engine)
        kind.append(kinds.setdefault((who, row.rounds), len(kinds)))
        works.append(work(row.model, row.chip, row.layout, row.recipe))
        held.append(max(1, kv_tokens(room(row.model, row.chip, row.layout, row.recipe), row.layout.dp)))

    def column(name: str) -> Array:
        return _array([getattr(row, name) for row in rows])

    return Table(
        tuple(rows),
        Work(*(_array(values) for values in zip(*works, strict=True))),
        tuple(kinds),
        _array(kind, int),
        column("clients"),
        column("prompt"),
        column("output"),
        _array(held),
        column("workers"),
        column("ttft_s"),
        column("tpot_s"),
        _array([row.group for row in rows], str),
    )


def predict(value: Callable[[str], float], it: Table) -> ClosedLoop:
    """Closed loop of every row, as arrays."""
    first = _array([first_token_s(value, who.engine) for who, _ in it.kinds])[it.kind]
    share, clumps = _array([start_up(value, who.engine, rounds) for who, rounds in it.kinds])[it.kind].T
    load = Clients(it.clients, it.prompt, it.output, share, clumps, first, it.kv_tokens)
    return closed_loop(row_coefficients(value, it), load)


def row_coefficients(value: Callable[[str], float], it: Table) -> Coefficients:
    """Seconds per unit of load of every row's engine, as arrays."""
    chosen = _array([choose(value, who) for who, _ in it.kinds])[it.kind].T
    return coefficients(it.work, Efficiencies(*chosen))


def predict_split(value: Callable[[str], float], prefill: Table, decode: Table) -> ClosedLoop:
    """Every disaggregated row, as arrays; its batch is no larger than its prefill pool can feed."""
    load = SplitClients(
        decode.clients * decode.workers,
        decode.prompt,
        decode.output,
        prefill.workers,
        prefill.work.ranks,
        decode.workers,
    )
    return split_loop(row_coefficients(value, prefill), row_coefficients(value, decode), load)


def predict_steps(value: Callable[[str], float], decode: Table) -> Array:
    """The decode step at B = all clients of a worker (T7's definition), as an array."""
    step: Any = decode_step_s(
        row_coefficients(value, decode), decode.clients, decode.prompt + decode.output / 2.0
    )
    return step


def _array(values: Any, kind: type = float) -> Array:
    import numpy as np

    return np.array(values, kind)
