"""T10: four ways to place prompts on prefill nodes with caches, over Mooncake's conversation.

Knows: expected means and hit rates. Does not know: the rules (`rules.nodes`).
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from diptych.planning.acceptance.files import mooncake
from diptych.planning.acceptance.row import By, Row, Sheet
from diptych.planning.acceptance.rules.nodes import Policy, serve

POLICIES: tuple[Policy, ...] = ("random", "load-balance", "local", "global")
EXPECTED: dict[int, tuple[tuple[float, float], ...]] = {
    7: ((16.8, 0.12), (3.47, 0.11), (2.03, 0.29), (1.74, 0.35)),
    8: ((11.3, 0.11), (2.47, 0.11), (1.70, 0.31), (1.49, 0.36)),
}
"""Nodes → (mean TTFT in s, hit share) by policy."""
PUBLISHED_S = (19.65, 5.27, 3.58, 3.07)
"""Mooncake (FAST 2025), 16 nodes of A800."""
TOLERANCE = {"load-balance": 0.08, "local": 0.03, "global": 0.03}
RANDOM_SEEDS = (1, 2, 3)


def rows(data: Path) -> list[Row]:
    """All of T10 by its rules."""
    sheet = Sheet("T10", By.RULES)
    workload = mooncake(data)
    arrivals = list(workload)
    found: list[Row] = []
    for nodes, expected in EXPECTED.items():
        means: list[float] = []
        for policy, (mean_s, hits) in zip(POLICIES, expected, strict=True):
            seeds = RANDOM_SEEDS if policy == "random" else RANDOM_SEEDS[:1]
            got = [serve(arrivals, nodes, policy, workload.block_tokens, seed) for seed in seeds]
            ttft_s = sum(it.mean_ttft_s for it in got) / len(got)
            means.append(ttft_s)
            name = f"{nodes} nodes, {policy}: mean TTFT, s"
            if policy == "random":
                note = "one draw decides a queue near overload; the order is the test"
                found.append(sheet.shown(name, mean_s, ttft_s, note))
            else:
                found.append(sheet.near(name, mean_s, ttft_s, relative=TOLERANCE[policy]))
            found.append(
                sheet.near(f"{nodes} nodes, {policy}: hit share", hits, got[0].hit_share, absolute=0.01)
            )
        ordered = all(worse > better for worse, better in pairwise(means))
        shown = " > ".join(f"{mean_s:.2f}" for mean_s in means)
        found.append(sheet.holds(f"{nodes} nodes: strict order", "random > … > global", ordered, shown))
        found.append(sheet.at_most(f"{nodes} nodes: global over local", 0.92, means[3] / means[2]))
    published = " > ".join(f"{mean_s}" for mean_s in PUBLISHED_S)
    note = (
        "16 nodes of A800 at the published load; the order and global/local 0.86 carry over, seconds do not"
    )
    return [*found, sheet.shown("published order, s", published, "see above", note)]
