"""`diptych calibrate`: how fast is the built-in engine on this machine?

Knows: flags, tables. Does not know: experiments, fits.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.cli.options import ClusterFlags

if TYPE_CHECKING:
    from diptych.bench.house.calibrate import Calibration


def calibrate(
    target: str | None = None,
    /,
    *,
    output: Path = Path("profile.yaml"),
    cluster: ClusterFlags = ClusterFlags(),
) -> None:
    """Measure prefill, decode and handoff on this machine in two to three minutes, and write a profile.

    `diptych simulate` and `diptych serve` take it with --profile. It holds for the pools, threads, model and
    chunk
    size that it was measured with; measure on a quiet machine.

    Parameters
    ----------
    target: str
        A model (directory, hub name or 'builtin') or a spec file (.yaml).
    output: Path
        Where the profile goes.
    """
    from rich.console import Console

    from diptych.bench.house.calibrate import calibrate as measure
    from diptych.bench.house.calibrate import write
    from diptych.cli.progress import Steps
    from diptych.cli.spec import resolve

    console = Console(stderr=True)
    spec = resolve(target, cluster, os.environ).spec
    with Steps(console) as steps:
        calibration = asyncio.run(measure(spec, steps.say))
    write(calibration, output)
    _show(Console(), calibration)
    console.print(f"written to {output}; use it with --profile {output}", soft_wrap=True)


def _show(console: object, calibration: Calibration) -> None:
    from rich.console import Console
    from rich.table import Table

    assert isinstance(console, Console)
    found = calibration.in_service
    console.print(
        f"steps in service against single steps: prefill ×{found.prefill:.2f}, decode ×{found.decode:.2f} "
        "(in the profile)"
    )
    for role, fitted in calibration.fitted.items():
        table = Table(title=f"{role}: single steps against the profile", title_justify="left")
        for heading in ("kind", "steps", "median error", "median |error|", "p90 |error|"):
            table.add_column(heading, justify="left" if heading == "kind" else "right")
        for kind, it in fitted.residuals.items():
            table.add_row(
                kind,
                str(it.samples),
                f"{it.median:+.1%}",
                f"{it.median_absolute:.1%}",
                f"{it.p90_absolute:.1%}",
            )
        console.print(table)
        profile = fitted.profile
        console.print(
            f"dispatch {1e3 * profile.dispatch_s:.2f} ms, handoff {1e3 * profile.handoff_fixed_s:.2f} ms, "
            f"mixed steps: prefill ×{profile.mixed_prefill_factor:.2f}, "
            f"decode ×{profile.mixed_decode_factor:.2f}, "
            f"beside another busy worker ×{profile.contended_factor:.2f}"
        )
