"""``python -m benchmarks [NAME …]``: run the named benchmarks, or all."""

from __future__ import annotations

import asyncio
import sys

from rich.console import Console

from benchmarks import (
    clients,
    cores,
    engine,
    handoff,
    interference,
    kernels,
    numerics,
    quant,
    quant_steps,
    simulator,
    soak,
    startup,
)

BENCHMARKS = {
    "handoff": handoff.main,
    "numerics": numerics.main,
    "interference": interference.main,
    "soak": soak.main,
    "clients": clients.main,
    "simulator": simulator.main,
    "cores": cores.main,
    "kernels": kernels.main,
    "quant": quant.main,
    "quant-steps": quant_steps.main,
    "engine": engine.main,
    "startup": startup.main,
}


def main(names: list[str]) -> int:
    """Run benchmarks by name. Returns the exit status (2: no such benchmark)."""
    console = Console()
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        console.print(f"no benchmark called {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}")
        return 2
    for name in names or BENCHMARKS:
        console.rule(name)
        asyncio.run(BENCHMARKS[name](console))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
