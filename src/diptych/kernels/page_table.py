"""Block tables of a step as the four lists that paged attention libraries read.

Knows: prefix sums over spans. Does not know: tensors, any library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from diptych.kernels.seam import Span


@dataclass(frozen=True)
class PageTable:
    """Span ``i`` has the queries ``[query_starts[i], query_starts[i + 1])`` and the pages
    ``pages[page_starts[i] : page_starts[i + 1]]``, all full but the last, of which ``last_page_tokens[i]``
    slots count.
    """

    query_starts: list[int]
    page_starts: list[int]
    pages: list[int]
    last_page_tokens: list[int]


def used_blocks(span: Span, block_tokens: int) -> tuple[int, ...]:
    """The blocks that hold the context of a span; its table may go on."""
    return span.blocks[: -(-span.context // block_tokens)]


def page_table(spans: Sequence[Span], block_tokens: int) -> PageTable:
    """Of ``spans`` in their order; queries are counted as if theirs were all there are."""
    tables = [used_blocks(span, block_tokens) for span in spans]
    return PageTable(
        query_starts=[*accumulate((span.rows for span in spans), initial=0)],
        page_starts=[*accumulate(map(len, tables), initial=0)],
        pages=[page for table in tables for page in table],
        last_page_tokens=[(span.context - 1) % block_tokens + 1 for span in spans],
    )
