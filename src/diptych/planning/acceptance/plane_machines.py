"""T5 on diptych's control plane: Splitwise's two best splits.

Knows: their specs. Does not know: the reference rules.
"""

from __future__ import annotations

from pathlib import Path

from diptych.planning.acceptance.plane import run, served, split_spec
from diptych.planning.acceptance.row import By, Row, Sheet
from diptych.planning.acceptance.rules.machine import A100, H100, read_machine
from diptych.planning.acceptance.rules.machines import HANDOFF_S
from diptych.planning.acceptance.rules.requests import poisson_requests
from diptych.planning.acceptance.splitwise_fleet import H100_MACHINES, SEED, SPAN_S, lengths, within_limits

KV_TOKENS = 2_000_000
"""More than any machine of the test fills; the test has no limit."""
SHARES = (0.92, 0.96, 1.0, 1.04, 1.08)
"""Of the expected rate: the row's tolerance in steps."""
BEST = {"code": (36, 187.0), "conv": (18, 172.0)}


def rows_for(data: Path, index: int) -> list[Row]:
    """The highest of five rates that holds all nine limits."""
    which = tuple(BEST)[index]
    prompts, expected = BEST[which]
    profile = read_machine(data, H100).profile(KV_TOKENS)
    cluster = split_spec(profile, prompts, profile, H100_MACHINES - prompts, handoff_s=HANDOFF_S)
    unloaded = read_machine(data, A100)
    held = 0.0
    for share in SHARES:
        asked = poisson_requests(lengths(data, which), share * expected, SEED, SPAN_S)
        if not within_limits(asked, served(run(cluster, asked, keep=True)), unloaded):
            break
        held = share * expected
    name = f"{which}: rate at {prompts}P/{H100_MACHINES - prompts}T, req/s"
    note = "the highest of five rates tried, from 0.92 to 1.08 of the expected one"
    return [Sheet("T5", By.PLANE).near(name, expected, held, relative=0.08, note=note)]
