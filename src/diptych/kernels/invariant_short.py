"""Invariant attention for spans of at most one query tile: the decode rows of a step, computed together.

Knows: a flat list of (span, kv tile) pairs. Does not know: long chunks.

Pairs are ordered by tile rank first and spans are ordered by descending tile count, so the pairs of rank i
belong to the first ``counts[i]`` spans: sums over tiles are plain additions to a prefix, by position.

Shapes: as in `seam`; N spans, P pairs, Q query rows of a tile, G query heads per kv head, L positions of a kv
tile, U gathered runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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

GROUP_ELEMENTS = 1 << 19
"""Elements of gathered keys in one group: 2 MiB, so that they are still cached when they are multiplied."""


@dataclass(frozen=True)
class ShortPlan:
    """A group of spans whose gathered keys fit the bound."""

    shape: AttentionShape
    query_rows: Tensor
    """Packed row of each query row [N * Q]; padding repeats the span's last."""
    real: Tensor
    """Which of these are not padding (indices)."""
    real_rows: Tensor
    """The packed rows of ``real``."""
    pair_span_P: Tensor
    runs_PKU: Tensor
    partial: Tensor
    """The pairs of which some row does not see everything: for a decode row, that of its own position."""
    hidden_QL: Tensor
    """What the rows of ``partial`` pairs do not see, [partial, 1, Q, 1, L]."""
    tails: tuple[tuple[int, int], ...]
    """(pair, filled) of the kv tiles that their sequence fills only up to ``filled``: whatever the memory
    holds beyond must not count, not even as zero times infinity."""
    counts: tuple[int, ...]
    """How many spans have a tile of each rank."""


def plan_short(spans: tuple[Span, ...], shape: AttentionShape, device: torch.device) -> tuple[ShortPlan, ...]:
    """Groups of ``spans``, longest first."""
    tiled = [(span, kv_tiles(span.start, span.context - 1, shape.window)) for span in spans]
    tiled.sort(key=lambda item: -len(item[1]))
    most_pairs = max(1, GROUP_ELEMENTS // (shape.kv_heads * KV_TILE_TOKENS * shape.head_dim))
    groups: list[list[tuple[Span, range]]] = []
    pairs = 0
    for item in tiled:
        if not groups or pairs + len(item[1]) > most_pairs:
            groups.append([])
            pairs = 0
        groups[-1].append(item)
        pairs += len(item[1])
    return tuple(_plan_group(group, shape, device) for group in groups)


def _plan_group(group: list[tuple[Span, range]], shape: AttentionShape, device: torch.device) -> ShortPlan:
    tile_rows = query_tile_rows(shape)
    steps = torch.arange(tile_rows)
    last_N = torch.tensor([span.rows - 1 for span, _ in group])
    within_NQ = torch.minimum(steps, last_N.unsqueeze(1))
    query_NQ = within_NQ + torch.tensor([span.first_row for span, _ in group]).unsqueeze(1)
    position_NQ = within_NQ + torch.tensor([span.start for span, _ in group]).unsqueeze(1)
    real = (steps <= last_N.unsqueeze(1)).flatten().nonzero().squeeze(1)
    counts = _rank_counts([len(tiles) for _, tiles in group])
    pair_span_P = torch.cat([torch.arange(count) for count in counts])
    rank_P = torch.cat([torch.full((count,), rank) for rank, count in enumerate(counts)])
    tile_P = rank_P + torch.tensor([tiles.start for _, tiles in group])[pair_span_P]
    key_PL = tile_positions(tile_P)
    hidden_PQL = hidden(position_NQ[pair_span_P], key_PL, shape.window)
    partial = hidden_PQL.flatten(1).any(1).nonzero().squeeze(1)
    return ShortPlan(
        shape=shape,
        query_rows=query_NQ.flatten().to(device),
        real=real.to(device),
        real_rows=query_NQ.flatten()[real].to(device),
        pair_span_P=pair_span_P.to(device),
        runs_PKU=_pair_runs([span for span, _ in group], pair_span_P, tile_P, shape).to(device),
        partial=partial.to(device),
        hidden_QL=hidden_PQL[partial][:, None, :, None, :].to(device),
        tails=_tails(group, counts),
        counts=counts,
    )


def _rank_counts(tiles: list[int]) -> tuple[int, ...]:
    """``counts[i]`` = how many spans have more than i tiles (``tiles`` descends)."""
    return tuple(sum(count > rank for count in tiles) for rank in range(tiles[0]))


def _tails(group: list[tuple[Span, range]], counts: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Where each span's last kv tile ends, if it is not full. Its rank is the span's last."""
    firsts = [sum(counts[:rank]) for rank in range(len(counts))]
    return tuple(
        (firsts[len(tiles) - 1] + index, span.context % KV_TILE_TOKENS)
        for index, (span, tiles) in enumerate(group)
        if span.context % KV_TILE_TOKENS
    )


def _pair_runs(spans: list[Span], pair_span_P: Tensor, tile_P: Tensor, shape: AttentionShape) -> Tensor:
    """Gather rows [P, K, U] of each pair's kv tile; past the end of a table, its first block stands in."""
    run, longest = gather_run_tokens(shape), max(len(span.blocks) for span in spans)
    table_NB = torch.tensor(
        [span.blocks + (span.blocks[0],) * (longest - len(span.blocks)) for span in spans]
    )
    offset_PU = tile_P.unsqueeze(1) * KV_TILE_TOKENS + torch.arange(0, KV_TILE_TOKENS, run)
    block_PU = offset_PU // shape.block_tokens
    block_PU = torch.where(block_PU < longest, block_PU, 0)
    blocks = table_NB[pair_span_P.unsqueeze(1), block_PU]
    return run_rows(blocks, offset_PU % shape.block_tokens, shape.kv_heads, shape.block_tokens, run)


def short_attention(
    q_THE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, plan: ShortPlan, scratch: Scratch, out_THE: Tensor
) -> None:
    """Attention of the group's rows into ``out``; ``q`` is scaled already."""
    shape, run = plan.shape, gather_run_tokens(plan.shape)
    q_NKRE = _query_tiles(q_THE, plan)
    tile_R = q_NKRE.shape[2]
    q_items = q_NKRE[plan.pair_span_P].flatten(0, 1)
    k_items = scratch.gather("k", k_BKSE, plan.runs_PKU, run).flatten(0, 1)
    scores = scratch.take("scores", (*k_items.shape[:1], tile_R, KV_TILE_TOKENS), q_THE)
    products(q_items, k_items.transpose(1, 2), scores)
    weights, sums_PKR1 = _softmax_parts(scores, plan)
    v_PKLE = scratch.gather("v", v_BKSE, plan.runs_PKU, run)
    for pair, filled in plan.tails:
        v_PKLE[pair, :, filled:].zero_()
    parts = scratch.take("parts", (*weights.shape[:2], shape.head_dim), q_THE)
    products(weights, v_PKLE.flatten(0, 1), parts)
    parts_PKRE = parts.view(-1, shape.kv_heads, tile_R, shape.head_dim)
    mixed_NKRE = _sum_ranks(parts_PKRE, plan.counts) / _sum_ranks(sums_PKR1, plan.counts)
    rows = mixed_NKRE.view(-1, shape.kv_heads, query_tile_rows(shape), shape.group, shape.head_dim)
    flat = rows.transpose(1, 2).reshape(-1, shape.heads, shape.head_dim)
    out_THE.index_copy_(0, plan.real_rows, flat[plan.real])


def _query_tiles(q_THE: Tensor, plan: ShortPlan) -> Tensor:
    """Query rows by kv head, [N, K, Q * G, E]."""
    shape = plan.shape
    q_rows = q_THE[plan.query_rows].view(
        -1, query_tile_rows(shape), shape.kv_heads, shape.group, shape.head_dim
    )
    return q_rows.transpose(1, 2).flatten(2, 3)


def _softmax_parts(scores: Tensor, plan: ShortPlan) -> tuple[Tensor, Tensor]:
    """exp(score - row maximum) [P * K, Q * G, L] in place, and its sums over each tile [P, K, Q * G, 1]."""
    shape, pairs = plan.shape, plan.pair_span_P.shape[0]
    by_head = scores.view(pairs, shape.kv_heads, query_tile_rows(shape), shape.group, KV_TILE_TOKENS)
    seen = by_head.index_select(0, plan.partial).masked_fill_(plan.hidden_QL, float("-inf"))
    by_head.index_copy_(0, plan.partial, seen)
    tiled = scores.view(pairs, shape.kv_heads, -1, KV_TILE_TOKENS)
    tops_PKR1 = tiled.amax(-1, keepdim=True)
    top_NKR1 = tops_PKR1[: plan.counts[0]].clone()
    first = plan.counts[0]
    for count in plan.counts[1:]:
        torch.maximum(top_NKR1[:count], tops_PKR1[first : first + count], out=top_NKR1[:count])
        first += count
    tiled.sub_(top_NKR1[plan.pair_span_P]).exp_()
    return scores, tiled.sum(-1, keepdim=True)


def _sum_ranks(parts: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Sum of each span's parts in order of position, [N, ...]."""
    total = parts[: counts[0]].clone()
    first = counts[0]
    for count in counts[1:]:
        total[:count].add_(parts[first : first + count])
        first += count
    return total
