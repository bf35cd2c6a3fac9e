"""T9: how much of Mooncake's conversation a prefix cache can find.

Knows: figures expected of the trace. Does not know: how hits are counted (`workload.ceilings`).
"""

from __future__ import annotations

from pathlib import Path

from diptych.planning.acceptance.files import mooncake
from diptych.planning.acceptance.row import By, Row, Sheet
from diptych.workload.ceilings import prefix_ceiling

MILLION = 1_000_000
LRU_PERCENT = {1: 5.42, 3: 13.82, 10: 29.08, 30: 36.58, 50: 37.07}
"""Cache in million tokens → tokens found, percent."""


def rows(data: Path) -> list[Row]:
    """All of T9."""
    sheet = Sheet("T9", By.DATA)
    found = prefix_ceiling(mooncake(data), [size * MILLION for size in LRU_PERCENT])
    return [
        sheet.exact("blocks", 288_500, found.blocks),
        sheet.exact("blocks found, unbounded", 105_710, found.hit_blocks),
        sheet.exact("distinct blocks", 182_790, found.distinct_blocks),
        sheet.near("blocks found, %", 36.64, 100 * found.hit_block_share, absolute=0.01),
        sheet.near("tokens found, %", 37.36, 100 * found.hit_token_share, absolute=0.01),
        *(
            sheet.near(
                f"LRU of {size} M tokens, %",
                percent,
                100 * found.lru_token_share(size * MILLION),
                absolute=0.01,
            )
            for size, percent in LRU_PERCENT.items()
        ),
    ]
