"""Paged attention of the native library against the reference: random shapes, poison in unused memory."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diptych.kernels.reference import ReferenceKernels
from diptych.kernels.seam import AttentionShape, Span
from support.native_library import native_kernels

pytestmark = pytest.mark.timeout(200)
TOLERANCE = 0.02
"""Weights and results are rounded to bfloat16 (2⁻⁹ relative); values are of order one."""


class Case:
    """Spans over scattered blocks; whatever belongs to nobody is not a number."""

    def __init__(self, seed: int, group: int, width: int, block_tokens: int, window: int | None) -> None:
        rng = random.Random(seed)
        torch.manual_seed(seed)
        kv_heads, blocks = rng.randint(1, 3), rng.choice([40, 160])
        self.shape = AttentionShape(kv_heads * group, kv_heads, width, block_tokens, window)
        size = (blocks, kv_heads, block_tokens, width)
        self.k_BKSE, self.v_BKSE = torch.randn(size).bfloat16(), torch.randn(size).bfloat16()
        free = rng.sample(range(blocks), blocks)
        spans: list[Span] = []
        row = 0
        for _ in range(rng.randint(0, 4)):
            rows = rng.choice([1, 1, 3, 17, 70])
            start = rng.choice([0, 1, rng.randint(0, 63), rng.randint(0, 2000)])
            needed = -(-(start + rows) // block_tokens)
            if needed > len(free):
                continue
            table, free = tuple(free[:needed]), free[needed:]
            used = (start + rows) % block_tokens
            if used:
                self.k_BKSE[table[-1], :, used:] = float("nan")
                self.v_BKSE[table[-1], :, used:] = float("nan")
            spans.append(Span(row, rows, start, table))
            row += rows
        for block in free:
            self.k_BKSE[block] = float("nan")
            self.v_BKSE[block] = float("nan")
        self.spans = tuple(spans)
        self.q_THE = torch.randn(row, self.shape.heads, width).bfloat16()

    def run(self, kernels: object, q_THE: Tensor, spans: tuple[Span, ...]) -> Tensor:
        """Attention of some spans."""
        plan = kernels.plan_attention(spans, self.shape)  # type: ignore[attr-defined]
        return kernels.attention(q_THE, self.k_BKSE, self.v_BKSE, plan)  # type: ignore[attr-defined]


cases = st.builds(
    Case,
    st.integers(0, 10_000),
    st.integers(1, 8),
    st.sampled_from([64, 96, 128, 256]),
    st.sampled_from([16, 16, 32, 5]),
    st.sampled_from([None, None, 37, 1500]),
)


@settings(max_examples=40, deadline=None)
@given(cases)
def test_equals_the_reference(case: Case) -> None:
    found_THE = case.run(native_kernels(), case.q_THE, case.spans)
    reference = ReferenceKernels()
    wanted_THE = reference.attention(
        case.q_THE.float(),
        case.k_BKSE.nan_to_num().float(),
        case.v_BKSE.nan_to_num().float(),
        reference.plan_attention(case.spans, case.shape),
    )
    assert bool(found_THE.isfinite().all())
    assert bool(((found_THE.float() - wanted_THE).abs() <= TOLERANCE).all())


@settings(max_examples=25, deadline=None)
@given(cases, st.sampled_from([1, 2, 3]))
def test_a_row_has_the_same_bits_alone_in_any_chunk_and_on_any_threads(case: Case, threads: int) -> None:
    together_THE = case.run(native_kernels(threads), case.q_THE, case.spans)
    kernels = native_kernels(2)
    for span in case.spans:
        for row in range(span.rows):
            first = span.first_row + row
            one = Span(0, 1, span.start + row, span.blocks)
            alone_THE = case.run(kernels, case.q_THE[first : first + 1], (one,))
            assert torch.equal(alone_THE[0], together_THE[first])


def test_shapes_that_the_library_does_not_take_go_to_torch() -> None:
    kernels = native_kernels()
    shape = AttentionShape(2, 1, 80, 16)
    planes = torch.randn(2, 1, 16, 80).bfloat16(), torch.randn(2, 1, 16, 80).bfloat16()
    spans = (Span(0, 3, 0, (1,)),)
    q_THE = torch.randn(3, 2, 80).bfloat16()
    found_THE = kernels.attention(q_THE, *planes, kernels.plan_attention(spans, shape))
    reference = ReferenceKernels()
    wanted_THE = reference.attention(
        q_THE.float(), planes[0].float(), planes[1].float(), reference.plan_attention(spans, shape)
    )
    assert torch.allclose(found_THE.float(), wanted_THE, atol=TOLERANCE)
