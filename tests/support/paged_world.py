"""Random steps over scattered pages, and attention of them by the reference.

Knows: spans, planes. Does not know: which kernels are tested.
"""

from __future__ import annotations

import random

import torch
from hypothesis import strategies as st
from torch import Tensor

from diptych.kernels.reference import ReferenceKernels
from diptych.kernels.seam import AttentionShape, Kernels, Span

POISON = 1e4
"""In slots that nobody may see: finite, as the memory of an engine is, and ruinous wherever it is seen."""


class PagedWorld:
    """Spans of one step; ``spans`` may be empty of prompts or of decodes, never of both."""

    def __init__(
        self,
        seed: int,
        kv_heads: int,
        group: int,
        width: int,
        block_tokens: int,
        window: int | None,
        kind: str,
    ) -> None:
        rng = random.Random(seed)
        generator = torch.Generator().manual_seed(seed)
        self.shape = AttentionShape(kv_heads * group, kv_heads, width, block_tokens, window)
        blocks = 120
        self.k_BKSE = torch.randn((blocks, kv_heads, block_tokens, width), generator=generator)
        self.v_BKSE = torch.randn((blocks, kv_heads, block_tokens, width), generator=generator)
        free = rng.sample(range(blocks), blocks)
        row, spans = 0, list[Span]()
        for _ in range(rng.randint(1, 5)):
            rows = {"decodes": 1, "prompts": rng.choice([2, 9, 40]), "mixed": rng.choice([1, 1, 2, 33])}[kind]
            start = rng.choice([0, 1, rng.randint(0, 20), rng.randint(0, 130)])
            needed = -(-(start + rows) // block_tokens)
            table, free = tuple(free[:needed]), free[needed:]
            if len(table) < needed:
                break
            used = (start + rows) % block_tokens
            if used:
                self.k_BKSE[table[-1], :, used:] = POISON
                self.v_BKSE[table[-1], :, used:] = POISON
            spare = tuple(free[: rng.randint(0, 2)])  # a table may be longer than its context
            spans.append(Span(row, rows, start, table + spare))
            row += rows
        for block in free:
            self.k_BKSE[block] = POISON
            self.v_BKSE[block] = POISON
        self.spans = tuple(spans) or (Span(0, 1, 0, (0,)),)
        rows = sum(span.rows for span in self.spans)
        self.q_THE = torch.randn((rows, self.shape.heads, width), generator=generator)

    def run(self, kernels: Kernels, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
        """Attention of all spans, on the host in float32."""
        q_THE, k_BKSE, v_BKSE = (x.to(device, dtype) for x in (self.q_THE, self.k_BKSE, self.v_BKSE))
        plan = kernels.plan_attention(self.spans, self.shape)
        return kernels.attention(q_THE, k_BKSE, v_BKSE, plan).float().cpu()

    def expected(self) -> Tensor:
        """The same by the reference."""
        return self.run(ReferenceKernels())


def paged_worlds(widths: tuple[int, ...] = (8, 32), kinds: tuple[str, ...] = ("decodes", "prompts", "mixed")):
    """Any of them: ratios of heads, windows, partly filled blocks."""
    return st.builds(
        PagedWorld,
        st.integers(0, 100_000),
        st.integers(1, 3),
        st.sampled_from([1, 2, 3, 7]),
        st.sampled_from(widths),
        st.sampled_from([1, 4, 5, 16]),
        st.sampled_from([None, None, 1, 7, 50]),
        st.sampled_from(kinds),
    )
