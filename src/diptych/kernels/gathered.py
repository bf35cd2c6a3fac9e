"""Paged attention with torch alone: pages are gathered into one padded tensor for its attention.

Knows: gather indices, masks, how much is gathered at a time. Does not know: devices' own libraries.

The query heads of a kv head lie beside each other as more queries of it, because torch's quick routines for
masks know no shared kv heads. What lies in a gathered slot that nobody sees is masked, so it must be a
number: memory is zeroed when allocated, and what is not finite ends the worker.

Shapes: as in `seam`; N rows of the spans at hand, R decode rows, W blocks of the widest, L = W·S gathered
positions, G query heads of a kv head, Q rows of one span.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from diptych.kernels.page_table import used_blocks
from diptych.kernels.paging import as_runs, run_rows
from diptych.kernels.reference import visible
from diptych.kernels.seam import AttentionShape, Span
from diptych.kernels.upload import upload

MOST_POSITIONS = 1 << 18
"""Gathered at a time, padding included: K and V of 8 heads of 128 in bfloat16 take 1 GiB."""


class GatheredAttention:
    """Implements `PagedAttention`."""

    def __init__(self, device: torch.device, most_positions: int = MOST_POSITIONS) -> None:
        self._device = device
        self._most_positions = most_positions

    def decodes(self, spans: Sequence[Span], shape: AttentionShape) -> GatheredDecodes:
        """See `PagedAttention.decodes`."""
        cuts = [_cut(span, shape) for span in spans]
        return GatheredDecodes(
            tuple(
                _batch(group, max(map(_width, group)), shape, self._device)
                for group in self._groups(cuts, shape)
            ),
            shape,
        )

    def prompts(self, spans: Sequence[Span], shape: AttentionShape) -> GatheredPrompts:
        """See `PagedAttention.prompts`."""
        first, pieces = 0, list[_Prompt]()
        for span in spans:
            pieces.append(_prompt(first, span, shape, self._device))
            first += span.rows
        return GatheredPrompts(tuple(pieces), shape)

    def held_blocks(self, blocks: int, most_blocks: int) -> int:
        """See `PagedAttention.held_blocks`: powers of two, since all that is padded is gathered, too."""
        return min(1 << (blocks - 1).bit_length(), most_blocks)

    def hold(self, rows: int, blocks: int, shape: AttentionShape) -> HeldDecodes | None:
        """See `PagedAttention.hold`."""
        width = (
            blocks if shape.window is None else min(blocks, _window_blocks(shape.window, shape.block_tokens))
        )
        if rows * width * shape.block_tokens > self._most_positions:
            return None
        batch = _batch([_Cut((0,), 0, 1)] * rows, width, shape, self._device)
        return HeldDecodes(GatheredDecodes((batch,), shape), width, self._device)

    def _groups(self, cuts: Sequence[_Cut], shape: AttentionShape) -> list[list[_Cut]]:
        """Neighbours that are gathered together; one alone may be more than is meant to be."""
        groups, widest = list[list[_Cut]](), 0
        for cut in cuts:
            widest = max(widest, _width(cut))
            rows = len(groups[-1]) + 1 if groups else 1
            if groups and rows * widest * shape.block_tokens <= self._most_positions:
                groups[-1].append(cut)
            else:
                groups.append([cut])
                widest = _width(cut)
        return groups


# ---------------------------------------------------------------- decodes


@dataclass(frozen=True)
class _Cut:
    """What one row sees: positions ``[low, high)`` of these blocks."""

    blocks: tuple[int, ...]
    low: int
    high: int


def _width(cut: _Cut) -> int:
    return len(cut.blocks)


def _cut(span: Span, shape: AttentionShape) -> _Cut:
    """Blocks before the window are left out."""
    blocks = used_blocks(span, shape.block_tokens)
    low = 0 if shape.window is None else max(0, span.context - shape.window)
    skipped = low // shape.block_tokens
    before = skipped * shape.block_tokens
    return _Cut(blocks[skipped:], low - before, span.context - before)


def _window_blocks(window: int, block_tokens: int) -> int:
    """The most blocks over which a window stretches."""
    return (window + block_tokens - 2) // block_tokens + 1


@dataclass(frozen=True)
class _Batch:
    rows_RKW: Tensor
    """Gather indices."""
    mask_RL: Tensor


def _batch(cuts: Sequence[_Cut], width: int, shape: AttentionShape, device: torch.device) -> _Batch:
    """Tables are padded to ``width`` blocks with block 0, of which nothing is seen."""
    tables = [[*cut.blocks, *[0] * (width - len(cut.blocks))] for cut in cuts]
    blocks_RW = upload(tables, torch.int64, device)
    ends_R2 = upload([(cut.low, cut.high) for cut in cuts], torch.int64, device)
    tokens = shape.block_tokens
    rows_RKW = run_rows(blocks_RW, torch.zeros_like(blocks_RW), shape.kv_heads, tokens, tokens)
    at_L = torch.arange(width * tokens, device=device)
    low_R1, high_R1 = ends_R2.split(1, dim=1)
    return _Batch(rows_RKW, (at_L >= low_R1) & (at_L < high_R1))


@dataclass(frozen=True)
class GatheredDecodes:
    """Implements `Attend` for rows that are the last of their sequences; batches follow each other."""

    batches: tuple[_Batch, ...]
    shape: AttentionShape

    def attend(self, q_NHE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor) -> Tensor:
        """See `Attend.attend`."""
        parts = q_NHE.split([batch.mask_RL.shape[0] for batch in self.batches])
        done = [
            self._run(batch, q_RHE, k_BKSE, v_BKSE) for batch, q_RHE in zip(self.batches, parts, strict=True)
        ]
        return done[0] if len(done) == 1 else torch.cat(done)

    def _run(self, batch: _Batch, q_RHE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor) -> Tensor:
        out_RKGE = functional.scaled_dot_product_attention(
            q_RHE.unflatten(1, (self.shape.kv_heads, self.shape.group)),
            _gather(k_BKSE, batch.rows_RKW),
            _gather(v_BKSE, batch.rows_RKW),
            attn_mask=batch.mask_RL[:, None, None],
        )
        return out_RKGE.flatten(1, 2)


class HeldDecodes:
    """Implements `HeldAttend`: one batch whose tensors stay where they are."""

    def __init__(self, decodes: GatheredDecodes, width: int, device: torch.device) -> None:
        self._decodes = decodes
        self._width = width
        self._device = device

    def attend(self, q_NHE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor) -> Tensor:
        """See `Attend.attend`."""
        return self._decodes.attend(q_NHE, k_BKSE, v_BKSE)

    def refill(self, spans: Sequence[Span]) -> None:
        """See `HeldAttend.refill`."""
        shape, (held,) = self._decodes.shape, self._decodes.batches
        fresh = _batch([_cut(span, shape) for span in spans], self._width, shape, self._device)
        held.rows_RKW.copy_(fresh.rows_RKW)
        held.mask_RL.copy_(fresh.mask_RL)


# ---------------------------------------------------------------- prompts


@dataclass(frozen=True)
class _Prompt:
    first: int
    span: Span
    rows_KW: Tensor
    mask_QL: Tensor | None
    """None where causality alone decides."""


def _prompt(first: int, span: Span, shape: AttentionShape, device: torch.device) -> _Prompt:
    tokens = shape.block_tokens
    blocks_W = upload(used_blocks(span, tokens), torch.int64, device)
    rows_KW = run_rows(blocks_W, torch.zeros_like(blocks_W), shape.kv_heads, tokens, tokens)
    windowed = shape.window is not None and span.context > shape.window
    causal = span.start == 0 and not windowed
    return _Prompt(first, span, rows_KW, None if causal else visible(span, shape.window, device))


@dataclass(frozen=True)
class GatheredPrompts:
    """Implements `Attend`, one span after the other."""

    pieces: tuple[_Prompt, ...]
    shape: AttentionShape

    def attend(self, q_NHE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor) -> Tensor:
        """See `Attend.attend`."""
        done = [self._run(piece, q_NHE, k_BKSE, v_BKSE) for piece in self.pieces]
        return done[0] if len(done) == 1 else torch.cat(done)

    def _run(self, piece: _Prompt, q_NHE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor) -> Tensor:
        span, group = piece.span, self.shape.group
        q_HQE = q_NHE[piece.first : piece.first + span.rows].transpose(0, 1)
        k_KLE = _gather(k_BKSE, piece.rows_KW)[:, : span.context]
        v_KLE = _gather(v_BKSE, piece.rows_KW)[:, : span.context]
        if piece.mask_QL is None:
            out_HQE = functional.scaled_dot_product_attention(
                q_HQE.unsqueeze(0),
                k_KLE.unsqueeze(0),
                v_KLE.unsqueeze(0),
                is_causal=True,
                enable_gqa=group > 1,
            )[0]
        else:
            out_HQE = functional.scaled_dot_product_attention(
                q_HQE.reshape(1, self.shape.kv_heads, -1, self.shape.head_dim),
                k_KLE.unsqueeze(0),
                v_KLE.unsqueeze(0),
                attn_mask=piece.mask_QL.repeat(group, 1),
            ).reshape(q_HQE.shape)
        return out_HQE.transpose(0, 1)


def _gather(plane_BKSE: Tensor, rows: Tensor) -> Tensor:
    """Whole blocks of each head, [..., K, W] → [..., K, L, E]."""
    tokens, width = plane_BKSE.shape[2:]
    flat = as_runs(plane_BKSE, tokens).index_select(0, rows.flatten())
    return flat.view(*rows.shape[:-1], rows.shape[-1] * tokens, width)
