"""Are the machine's cores as quick together as each is alone?

Two cores of a virtual machine may at times be two hardware threads of one physical core: then whatever runs
on both, a worker with two threads or two workers at once, is slower for seconds, and no measurement inside
the machine says why.

Knows: loops of products, one core's and all cores'. Does not know: engines, who else uses the host.
"""

from __future__ import annotations

import os
import time
from itertools import groupby
from statistics import median
from typing import Any, NamedTuple

from rich.console import Console

from benchmarks.machine import Machine
from benchmarks.provenance import save
from diptych.kernels.native.load import NotNative, library

SECONDS = 60.0
LOOK_S = 0.05
"""Of one core alone, then of all."""
SHARED = 0.75
"""A core that has so small a share of its own rate, when all compute, is not a core of its own: two hardware
threads that multiply without rest have about a half each, and what disturbs for a moment costs less."""


class Look(NamedTuple):
    """At one moment: products a second of one core, and of all over their count."""

    began_s: float
    alone: float
    together: float

    @property
    def share(self) -> float:
        """Of its own rate that a core has beside the others."""
        return self.together / self.alone


async def main(console: Console) -> None:
    """Measure for a minute, print, write the result file."""
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        console.print("left out: there is one core")
        return
    try:
        library()
    except NotNative as why:
        console.print(f"left out: {why}")
        return
    one, every = Machine(1), Machine(cores)
    for machine in (one, every):
        machine.shorten(LOOK_S)
    looks: list[Look] = []
    began_s = time.monotonic()
    while time.monotonic() - began_s < SECONDS:
        began = time.monotonic() - began_s
        looks.append(Look(began, one.multiply(), every.multiply() / cores))
    result = summary(looks, cores)
    console.print(
        f"{cores} cores at once have {result['share_p50']:.2f} of what each has alone, median of "
        f"{len(looks)} looks; in {result['shared']:.0%} of them less than {SHARED:g}, for up to "
        f"{result['longest_shared_s']:.1f} s"
    )
    console.print(f"written to {save('cores', result)}")


def summary(looks: list[Look], cores: int) -> dict[str, Any]:
    """What many looks in a row say; one or more."""
    per_look_s = (looks[-1].began_s - looks[0].began_s) / max(1, len(looks) - 1)
    runs = [len(list(run)) for shared, run in groupby(looks, lambda it: it.share < SHARED) if shared]
    return {
        "cores": cores,
        "looks": len(looks),
        "share_p50": median(it.share for it in looks),
        "shared": sum(runs) / len(looks),
        "longest_shared_s": max(runs, default=0) * per_look_s,
        "shares": [round(it.share, 3) for it in looks],
    }
