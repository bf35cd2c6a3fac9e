"""Trouble on a schedule, for the simulator.

Knows: what can happen to a worker or a link, and when. Does not know: how the cluster copes.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from diptych.domain.errors import SpecError
from diptych.domain.worker import Role


class Kill(msgspec.Struct, frozen=True, tag="kill", kw_only=True):
    """A worker dies at ``t_s``; with ``back_after_s`` a new incarnation joins so much later (a cold start),
    as
    ``role`` if that is given (a role change by restart)."""

    t_s: float
    worker_id: str
    noticed_after_s: float = 0.0
    """How long nobody notices: a hang is a death that is noticed late."""
    back_after_s: float | None = None
    role: Role | None = None


class Slow(msgspec.Struct, frozen=True, tag="slow", kw_only=True):
    """Every step of a worker takes ``factor`` times as long from ``t_s`` on."""

    t_s: float
    worker_id: str
    factor: float


class SlowLink(msgspec.Struct, frozen=True, tag="slow_link", kw_only=True):
    """The link's bandwidth is divided by ``factor`` from ``t_s`` on."""

    t_s: float
    factor: float


class ColdStart(msgspec.Struct, frozen=True, tag="cold_start", kw_only=True):
    """A worker of the spec is not there before ``t_s``."""

    t_s: float
    worker_id: str


Fault: TypeAlias = Kill | Slow | SlowLink | ColdStart


def check_faults(faults: tuple[Fault, ...], worker_ids: tuple[str, ...]) -> None:
    """Raise `SpecError` for times before 0, factors not above 0 and workers that do not exist."""
    for number, fault in enumerate(faults):
        where = f"faults[{number}]"
        if not 0 <= fault.t_s < float("inf"):
            raise SpecError(f"{where}.t_s must be a finite time from 0 on, not {fault.t_s!r}")
        if isinstance(fault, Slow | SlowLink) and not 0 < fault.factor < float("inf"):
            raise SpecError(f"{where}.factor must be positive and finite, not {fault.factor!r}")
        if not isinstance(fault, SlowLink) and fault.worker_id not in worker_ids:
            raise SpecError(
                f"{where}.worker_id: no worker {fault.worker_id!r}; there are {', '.join(worker_ids)}"
            )
