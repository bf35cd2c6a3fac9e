"""FlashInfer's two wrappers as its documentation describes them, computed on a CPU from their arguments.

Knows: page lists, window and causality as the library reads them. Does not know: spans, block tables.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Wrapper:
    def __init__(self, workspace: Tensor, kv_layout: str) -> None:
        assert workspace.dtype == torch.uint8 and kv_layout == "HND"
        self.device = workspace.device
        self.plans = 0

    def _keep(
        self,
        qo: Tensor,
        indptr: Tensor,
        indices: Tensor,
        last: Tensor,
        sizes: tuple[int, ...],
        window_left: int,
    ) -> None:
        for values in (qo, indptr, indices, last):
            assert values.dtype == torch.int32 and values.dim() == 1
        assert indices.device == self.device, "a copy of pages from the host would wait"
        assert len(indptr) == len(last) + 1 == len(qo) and int(indptr[-1]) == len(indices)
        self.qo, self.indptr, self.indices, self.last = qo, indptr, indices, last
        self.heads, self.kv_heads, self.head_dim, self.page = sizes
        self.window_left = window_left
        self.plans += 1

    def _run(self, q: Tensor, cache: tuple[Tensor, Tensor], causal: bool) -> Tensor:
        k_cache, v_cache = cache
        assert k_cache.shape[1:] == (self.kv_heads, self.page, self.head_dim)
        assert q.shape == (int(self.qo[-1]), self.heads, self.head_dim)
        out = torch.empty_like(q)
        for i in range(len(self.last)):
            first, end = int(self.qo[i]), int(self.qo[i + 1])
            pages = self.indices[int(self.indptr[i]) : int(self.indptr[i + 1])].long()
            assert 1 <= int(self.last[i]) <= self.page
            length = (len(pages) - 1) * self.page + int(self.last[i])
            k = k_cache[pages].transpose(0, 1).flatten(1, 2)[:, :length].float()
            v = v_cache[pages].transpose(0, 1).flatten(1, 2)[:, :length].float()
            group = self.heads // self.kv_heads
            k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
            scores = q[first:end].float().transpose(0, 1) @ k.transpose(1, 2) / self.head_dim**0.5
            at = torch.arange(length - (end - first), length).unsqueeze(1)
            key = torch.arange(length)
            hidden = torch.zeros(end - first, length, dtype=torch.bool)
            if causal:
                hidden |= key > at
            if self.window_left >= 0:
                hidden |= key < at - self.window_left
            out[first:end] = (
                (scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v).transpose(0, 1).to(q.dtype)
            )
        return out


class BatchDecodeWithPagedKVCacheWrapper(_Wrapper):
    """One query for each request, always the last of its context."""

    def __init__(
        self,
        float_workspace_buffer: Tensor,
        kv_layout: str = "NHD",
        use_cuda_graph: bool = False,
        use_tensor_cores: bool = False,
        paged_kv_indptr_buffer: Tensor | None = None,
        paged_kv_indices_buffer: Tensor | None = None,
        paged_kv_last_page_len_buffer: Tensor | None = None,
    ) -> None:
        super().__init__(float_workspace_buffer, kv_layout)
        self.buffers = (paged_kv_indptr_buffer, paged_kv_indices_buffer, paged_kv_last_page_len_buffer)
        assert use_cuda_graph == all(buffer is not None for buffer in self.buffers)
        self.use_tensor_cores = use_tensor_cores

    def plan(
        self,
        indptr: Tensor,
        indices: Tensor,
        last_page_len: Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
        *,
        window_left: int = -1,
        q_data_type: Any = "float16",
        kv_data_type: Any = None,
    ) -> None:
        assert self.use_tensor_cores or num_qo_heads // num_kv_heads in (1, 2, 3, 4, 8)
        held = self.buffers
        if held[0] is not None and held[1] is not None and held[2] is not None:
            assert len(held[2]) == len(last_page_len), "the batch of a held wrapper is fixed for life"
            held[0].copy_(indptr)
            held[1][: len(indices)].copy_(indices)
            held[2].copy_(last_page_len)
            indptr, indices, last_page_len = held[0], held[1][: len(indices)], held[2]
        sizes = (num_qo_heads, num_kv_heads, head_dim, page_size)
        self.q_dtype, self.kv_dtype = q_data_type, kv_data_type
        qo = torch.arange(len(last_page_len) + 1, dtype=torch.int32)
        self._keep(qo, indptr, indices, last_page_len, sizes, window_left)

    def run(self, q: Tensor, paged_kv_cache: tuple[Tensor, Tensor]) -> Tensor:
        assert (q.dtype, paged_kv_cache[0].dtype) == (self.q_dtype, self.kv_dtype)
        return self._run(q, paged_kv_cache, causal=False)


class BatchPrefillWithPagedKVCacheWrapper(_Wrapper):
    """Some queries for each request, the last of its context."""

    def __init__(self, float_workspace_buffer: Tensor, kv_layout: str = "NHD") -> None:
        super().__init__(float_workspace_buffer, kv_layout)

    def plan(
        self,
        qo_indptr: Tensor,
        paged_kv_indptr: Tensor,
        paged_kv_indices: Tensor,
        paged_kv_last_page_len: Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        page_size: int,
        *,
        causal: bool = False,
        window_left: int = -1,
        q_data_type: Any = "float16",
        kv_data_type: Any = None,
    ) -> None:
        sizes = (num_qo_heads, num_kv_heads, head_dim_qk, page_size)
        self.causal, self.q_dtype, self.kv_dtype = causal, q_data_type, kv_data_type
        self._keep(qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len, sizes, window_left)

    def run(self, q: Tensor, paged_kv_cache: tuple[Tensor, Tensor]) -> Tensor:
        assert (q.dtype, paged_kv_cache[0].dtype) == (self.q_dtype, self.kv_dtype)
        return self._run(q, paged_kv_cache, self.causal)
