"""Invariant attention for one span of many query tiles: a chunk of a prompt behind its cached prefix.

Knows: one span; its keys are gathered once and shared by all its query tiles. Does not know: other spans.

Shapes: as in `seam`; Q query tiles of one group, R rows of a query tile (tokens × query heads of a kv head),
J kv tiles, L positions of a kv tile, U gathered runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from diptych.kernels.invariant_tiles import (
    KV_TILE_TOKENS,
    gather_run_tokens,
    hidden,
    kv_tiles,
    products,
    query_tile_rows,
    tile_positions,
)
from diptych.kernels.paging import Scratch, run_rows
from diptych.kernels.seam import AttentionShape, Span

GROUP_TILES = 32
"""Query tiles computed together: more would compute more positions that causality hides."""


@dataclass(frozen=True)
class _Group:
    """Query tiles ``first..first + tiles`` of the span, and the kv tiles that any of them sees."""

    first: int
    tiles: int
    kv: range
    hidden: tuple[Tensor | None, ...]
    """For each kv tile: bool [Q, R, L], or None where every row sees all of it."""


@dataclass(frozen=True)
class LongPlan:
    """One span."""

    shape: AttentionShape
    span: Span
    runs_KU: Tensor
    groups: tuple[_Group, ...]


def plan_long(span: Span, shape: AttentionShape, device: torch.device) -> LongPlan:
    """Gather indices and masks of one span."""
    tiles = -(-span.rows // query_tile_rows(shape))
    starts = range(0, tiles, GROUP_TILES)
    groups = tuple(_group(span, shape, first, min(GROUP_TILES, tiles - first), device) for first in starts)
    return LongPlan(shape, span, _runs(span, shape).to(device), groups)


def _runs(span: Span, shape: AttentionShape) -> Tensor:
    """Gather rows [K, U] of the whole context, padded to full kv tiles with the first block."""
    run = gather_run_tokens(shape)
    offset_U = torch.arange(0, -(-span.context // KV_TILE_TOKENS) * KV_TILE_TOKENS, run)
    table = torch.tensor(span.blocks)
    index_U = offset_U // shape.block_tokens
    blocks_U = table[torch.where(index_U < len(span.blocks), index_U, 0)]
    return run_rows(blocks_U, offset_U % shape.block_tokens, shape.kv_heads, shape.block_tokens, run)


def _group(span: Span, shape: AttentionShape, first: int, tiles: int, device: torch.device) -> _Group:
    tile_rows = query_tile_rows(shape)
    begin = span.start + first * tile_rows
    positions = torch.arange(begin, begin + tiles * tile_rows).clamp(max=span.context - 1)
    kv = kv_tiles(begin, int(positions[-1]), shape.window)
    rows_QR = positions.view(tiles, tile_rows).repeat_interleave(shape.group, dim=1)
    masks = (hidden(rows_QR, tile_positions(torch.tensor(tile)), shape.window) for tile in kv)
    return _Group(first, tiles, kv, tuple(mask.to(device) if bool(mask.any()) else None for mask in masks))


def long_attention(
    q_THE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, plan: LongPlan, scratch: Scratch, out_THE: Tensor
) -> None:
    """Attention of the span's rows into ``out``; ``q`` is scaled already."""
    shape, span, run = plan.shape, plan.span, gather_run_tokens(plan.shape)
    k_KLE = scratch.gather("k", k_BKSE, plan.runs_KU, run)
    v_KLE = scratch.gather("v", v_BKSE, plan.runs_KU, run)
    v_KLE[:, span.context :] = 0.0
    q_KQRE = _query_tiles(q_THE, span, shape)
    mixed_KQRE = torch.empty_like(q_KQRE)
    for head in range(shape.kv_heads):
        for group in plan.groups:
            tiles = slice(group.first, group.first + group.tiles)
            mixed_KQRE[head, tiles] = _mix(q_KQRE[head, tiles], k_KLE[head], v_KLE[head], group, scratch)
    rows = mixed_KQRE.view(shape.kv_heads, -1, shape.group, shape.head_dim).transpose(0, 1)
    out_THE[span.first_row : span.first_row + span.rows] = rows.flatten(1, 2)[: span.rows]


def _query_tiles(q_THE: Tensor, span: Span, shape: AttentionShape) -> Tensor:
    """The span's rows by kv head in full tiles, [K, Q, R, E]; padding is zero and never read back."""
    tile_rows = query_tile_rows(shape)
    rows = q_THE[span.first_row : span.first_row + span.rows]
    padded = functional.pad(rows, (0, 0, 0, 0, 0, -span.rows % tile_rows))
    by_head = padded.view(-1, tile_rows, shape.kv_heads, shape.group, shape.head_dim)
    return by_head.permute(2, 0, 1, 3, 4).reshape(shape.kv_heads, -1, tile_rows * shape.group, shape.head_dim)


def _mix(q_QRE: Tensor, k_LE: Tensor, v_LE: Tensor, group: _Group, scratch: Scratch) -> Tensor:
    """Attention of one group of query tiles of one kv head, [Q, R, E]."""
    tiles, rows, width = q_QRE.shape
    scores_JQRL = scratch.take("scores", (len(group.kv), tiles, rows, KV_TILE_TOKENS), q_QRE)
    for rank, tile in enumerate(group.kv):
        products(q_QRE, _tile(k_LE, tile, tiles).transpose(1, 2), scores_JQRL[rank])
        unseen = group.hidden[rank]
        if unseen is not None:
            scores_JQRL[rank].masked_fill_(unseen, float("-inf"))
    top_QR1 = scores_JQRL.amax(-1, keepdim=True).amax(0)
    sums_JQR1 = scores_JQRL.sub_(top_QR1).exp_().sum(-1, keepdim=True)
    total_QR1 = sums_JQR1[0].clone()
    mixed_QRE = products(scores_JQRL[0], _tile(v_LE, group.kv[0], tiles), torch.empty_like(q_QRE))
    part_QRE = scratch.take("part", (tiles, rows, width), q_QRE)
    for rank, tile in enumerate(group.kv[1:], start=1):
        products(scores_JQRL[rank], _tile(v_LE, tile, tiles), part_QRE)
        mixed_QRE.add_(part_QRE)
        total_QR1.add_(sums_JQR1[rank])
    return mixed_QRE.div_(total_QR1)


def _tile(x_LE: Tensor, tile: int, copies: int) -> Tensor:
    """One kv tile, seen ``copies`` times without copying."""
    first = tile * KV_TILE_TOKENS
    return x_LE[first : first + KV_TILE_TOKENS].unsqueeze(0).expand(copies, -1, -1)
