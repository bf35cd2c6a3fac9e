"""Paged attention through FlashInfer, where it is installed.

Knows: which of its wrappers takes which rows, and their arguments. Does not know: tables' arithmetic, when a
graph is captured.

A plane ``[B, K, S, E]`` is what FlashInfer calls the layout HND, K and V apart. Arguments are as its
documentation has them (docs.flashinfer.ai, and the sources of 0.6.14, read November 2026): lists of pages are
int32; a plan reads prefix sums on the host, so they stay there; ``window_left`` counts the positions before a
row's own; causality is aligned to the end of a context; a wrapper that graphs replay keeps its lists in
buffers that it is given, and its batch size for life. FlashInfer is under Apache-2.0.

Shapes: as in `seam`; N rows of the spans at hand.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from diptych.kernels.page_table import PageTable, page_table
from diptych.kernels.seam import AttentionShape, Span
from diptych.kernels.upload import on_host, upload

WORKSPACE_BYTES = 128 << 20
"""As its documentation recommends; all wrappers share it, since their kernels follow each other."""

HEAD_WIDTHS = (64, 128, 256)
"""For which it has kernels on every generation of devices that it supports."""

DTYPES = (torch.float16, torch.bfloat16)


class Wrapper(Protocol):
    """What is used of either wrapper."""

    # Their plans differ in their arguments; `_decode_plan` and `_prompt_plan` name them.
    plan: Any

    def run(self, q: Tensor, paged_kv_cache: tuple[Tensor, Tensor]) -> Tensor:
        """Attention of the rows of the last plan, [N, H, E]."""
        ...


class FlashInfer(Protocol):
    """What is used of the package."""

    BatchDecodeWithPagedKVCacheWrapper: Any
    BatchPrefillWithPagedKVCacheWrapper: Any


class NoFlashInfer(Exception):
    """It is not there, or does not load; the text says which."""


def load_flashinfer() -> FlashInfer:
    """The package. Raises `NoFlashInfer`."""
    try:
        return cast(FlashInfer, importlib.import_module("flashinfer"))
    except ModuleNotFoundError as error:
        if error.name != "flashinfer":
            raise NoFlashInfer(f"FlashInfer does not load: {error}") from error
        raise NoFlashInfer("FlashInfer is not installed: pip install 'diptych[cuda]'") from None
    except (ImportError, OSError, RuntimeError) as error:
        raise NoFlashInfer(f"FlashInfer does not load: {error}") from error


class FlashInferAttention:
    """Implements `Library`. A plan is valid until the next one for the same shape."""

    def __init__(self, library: FlashInfer, device: torch.device, dtype: torch.dtype) -> None:
        self._library = library
        self._device = device
        self._dtype = dtype
        self._decoders: dict[AttentionShape, Wrapper] = {}
        self._prefillers: dict[AttentionShape, Wrapper] = {}

    @cached_property
    def _workspace(self) -> Tensor:
        return torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=self._device)

    def takes(self, shape: AttentionShape) -> bool:
        """See `Library.takes`."""
        return self._dtype in DTYPES and shape.head_dim in HEAD_WIDTHS

    def decodes(self, spans: Sequence[Span], shape: AttentionShape) -> Planned:
        """See `PagedAttention.decodes`."""
        if shape not in self._decoders:
            self._decoders[shape] = self._decoder()
        wrapper = self._decoders[shape]
        self._plan_decodes(wrapper, spans, shape)
        return Planned(wrapper)

    def prompts(self, spans: Sequence[Span], shape: AttentionShape) -> Planned:
        """See `PagedAttention.prompts`."""
        if shape not in self._prefillers:
            build = self._library.BatchPrefillWithPagedKVCacheWrapper
            self._prefillers[shape] = build(self._workspace, kv_layout="HND")
        wrapper = self._prefillers[shape]
        table = page_table(spans, shape.block_tokens)
        wrapper.plan(
            self._host(table.query_starts),
            *self._lists(table),
            shape.heads,
            shape.kv_heads,
            shape.head_dim,
            shape.block_tokens,
            causal=True,
            **self._rest(shape),
        )
        return Planned(wrapper)

    def held_blocks(self, blocks: int, most_blocks: int) -> int:
        """See `PagedAttention.held_blocks`: a longer list costs memory only."""
        return max(blocks, most_blocks)

    def hold(self, rows: int, blocks: int, shape: AttentionShape) -> HeldPlanned:
        """See `PagedAttention.hold`."""

        def buffer(count: int) -> Tensor:
            return torch.zeros(count, dtype=torch.int32, device=self._device)

        wrapper = self._decoder(
            use_cuda_graph=True,
            paged_kv_indptr_buffer=buffer(rows + 1),
            paged_kv_indices_buffer=buffer(rows * blocks),
            paged_kv_last_page_len_buffer=buffer(rows),
        )
        return HeldPlanned(wrapper, self, shape)

    def refill(self, wrapper: Wrapper, spans: Sequence[Span], shape: AttentionShape) -> None:
        """Plan a held wrapper for other sequences, as many as before."""
        self._plan_decodes(wrapper, spans, shape)

    def _decoder(self, **held: Any) -> Wrapper:
        """On tensor cores: its other decode kernels know only some numbers of heads that share one."""
        build = self._library.BatchDecodeWithPagedKVCacheWrapper
        return build(self._workspace, kv_layout="HND", use_tensor_cores=True, **held)

    def _plan_decodes(self, wrapper: Wrapper, spans: Sequence[Span], shape: AttentionShape) -> None:
        wrapper.plan(
            *self._lists(page_table(spans, shape.block_tokens)),
            shape.heads,
            shape.kv_heads,
            shape.head_dim,
            shape.block_tokens,
            **self._rest(shape),
        )

    def _lists(self, table: PageTable) -> tuple[Tensor, Tensor, Tensor]:
        pages = upload(table.pages, torch.int32, self._device)
        return self._host(table.page_starts), pages, self._host(table.last_page_tokens)

    def _host(self, values: list[int]) -> Tensor:
        return on_host(values, torch.int32, self._device)

    def _rest(self, shape: AttentionShape) -> dict[str, Any]:
        window_left = -1 if shape.window is None else shape.window - 1
        return {"window_left": window_left, "q_data_type": self._dtype, "kv_data_type": self._dtype}


@dataclass(frozen=True)
class Planned:
    """Implements `Attend`."""

    wrapper: Wrapper

    def attend(self, q_NHE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor) -> Tensor:
        """See `Attend.attend`."""
        return self.wrapper.run(q_NHE, (k_BKSE, v_BKSE))


@dataclass(frozen=True)
class HeldPlanned:
    """Implements `HeldAttend`."""

    wrapper: Wrapper
    owner: FlashInferAttention
    shape: AttentionShape

    def attend(self, q_NHE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor) -> Tensor:
        """See `Attend.attend`."""
        return self.wrapper.run(q_NHE, (k_BKSE, v_BKSE))

    def refill(self, spans: Sequence[Span]) -> None:
        """See `HeldAttend.refill`."""
        self.owner.refill(self.wrapper, spans, self.shape)
