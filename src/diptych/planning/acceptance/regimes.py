"""T4: which limits favour splitting: the best unsplit engine against the best split fleet of up to 6 GPUs.

Knows: the candidates, limits on TTFT and on a request's worst gap, expected goodput. Does not know: how
engines work.
"""

from __future__ import annotations

from pathlib import Path

from diptych.planning.acceptance.distserve_goodput import Serve, chunked, goodput, split
from diptych.planning.acceptance.row import By, Row, Sheet

CHUNKS = (128, 256, 512, 1024, 2048)
MOST_CHIPS = 6
EXPECTED = (
    (1.0, 0.25, 3.70, "TP2 chunk 2048", 3.34, "2P1+2D2"),
    (1.0, 0.10, 3.07, "TP2 chunk 512", 3.34, "2P1+2D2"),
    (1.0, 0.05, 2.42, "TP2 chunk 256", 2.25, "2P1+2D2"),
    (1.0, 0.035, 1.64, "TP2 chunk 128", 1.41, "1P1+2D2"),
    (0.4, 0.10, 2.53, "TP2 chunk 512", 2.79, "2P1+1D2"),
    (0.2, 0.25, 2.34, "TP2 chunk 2048", 2.42, "3P1+1D2"),
    (0.2, 0.05, 0.35, "TP2 chunk 256", 1.41, "1P2+1D2"),
    (0.2, 0.035, 0.32, "TP2 chunk 256", 0.94, "1P2+2D2"),
)
"""TTFT limit, worst-gap limit (s), best unsplit and best split in req/s/GPU with their names."""


def unsplit_candidates(data: Path) -> dict[str, tuple[int, Serve]]:
    """One engine of one or two GPUs, any chunk. Larger chunks first: they win more often, which prunes."""
    return {f"TP{tp} chunk {chunk}": chunked(data, tp, chunk) for tp in (2, 1) for chunk in reversed(CHUNKS)}


def split_candidates(data: Path) -> dict[str, tuple[int, Serve]]:
    """One to three prefill engines of TP1 or one to two of TP2, one to two decode engines of either."""
    found: dict[str, tuple[int, Serve]] = {}
    for p_tp, most in ((2, 2), (1, 3)):
        for prefills in range(1, most + 1):
            for d_tp in (2, 1):
                for decodes in (1, 2):
                    if prefills * p_tp + decodes * d_tp <= MOST_CHIPS:
                        found[f"{prefills}P{p_tp}+{decodes}D{d_tp}"] = split(
                            data, prefills, p_tp, decodes, d_tp
                        )
    return found


def best(candidates: dict[str, tuple[int, Serve]], ttft_s: float, gap_s: float) -> tuple[float, str]:
    """(goodput per GPU, name) of the best. A candidate that holds the best rate so far at neither seed is
    left."""
    top = (0.0, "none")
    for name, (chips, serve) in candidates.items():
        top = max(top, (goodput(serve, chips, ttft_s, gap_s, "worst", beat=top[0]), name))
    return top


def rows_for(data: Path, index: int) -> list[Row]:
    """One line of the table."""
    sheet = Sheet("T4", By.RULES)
    ttft_s, gap_s, unsplit, unsplit_name, apart, apart_name = EXPECTED[index]
    got, name = best(unsplit_candidates(data), ttft_s, gap_s)
    got_apart, name_apart = best(split_candidates(data), ttft_s, gap_s)
    limits = f"{ttft_s}/{gap_s} s"
    ratio = got_apart / max(got, 1e-9)
    tight = ttft_s <= 0.2 and gap_s <= 0.05
    bound = (
        sheet.at_least(f"{limits}: split over unsplit, both tight", 2.5, ratio)
        if tight
        else sheet.at_most(f"{limits}: split over unsplit, one loose", 1.15, ratio)
    )
    return [
        sheet.near(
            f"{limits}: best unsplit, req/s/GPU",
            unsplit,
            got,
            relative=0.10,
            note=f"{name} (expected {unsplit_name})",
        ),
        sheet.near(
            f"{limits}: best split, req/s/GPU",
            apart,
            got_apart,
            relative=0.10,
            note=f"{name_apart} (expected {apart_name})",
        ),
        bound,
    ]
