"""Which kernels a worker computes with.

Knows: numerics policy and dtype. Does not know: models.
"""

from __future__ import annotations

from typing import Literal

import torch

from diptych.domain.errors import SpecError
from diptych.kernels.cuda import CudaKernels
from diptych.kernels.fast import FastKernels
from diptych.kernels.flashinfer_paged import DTYPES, FlashInferAttention, NoFlashInfer, load_flashinfer
from diptych.kernels.invariant import InvariantKernels
from diptych.kernels.native.kernels import NativeKernels
from diptych.kernels.native.load import NotNative, library
from diptych.kernels.seam import Kernels

Numerics = Literal["auto", "invariant", "fast"]


def choose_kernels(numerics: Numerics, dtype: torch.dtype, device: torch.device) -> Kernels:
    """'auto' is invariant in float32, native in bfloat16 where the processor can, and fast otherwise. On a
    CUDA device 'auto' is fast in every dtype.

    Raises:
        SpecError: invariant numerics for another dtype than float32.
    """
    exact = dtype == torch.float32
    if numerics == "invariant" and not exact:
        raise SpecError(f"numerics 'invariant' needs dtype 'float32', not '{str(dtype).split('.')[-1]}'")
    on_cuda = device.type == "cuda"
    if numerics == "invariant" or (numerics == "auto" and exact and not on_cuda):
        return InvariantKernels(device)
    if on_cuda:
        return _cuda(device, dtype)
    if dtype == torch.bfloat16 and device.type == "cpu":
        try:
            return NativeKernels(library(), torch.get_num_threads())
        except NotNative as why:
            return FastKernels(device, dtype, f"native kernels: {why}")
    return FastKernels(device, dtype)


def _cuda(device: torch.device, dtype: torch.dtype) -> CudaKernels:
    if dtype not in DTYPES:
        return CudaKernels(device, dtype, None, f"FlashInfer knows no {str(dtype).split('.')[-1]}")
    try:
        return CudaKernels(device, dtype, FlashInferAttention(load_flashinfer(), device, dtype))
    except NoFlashInfer as why:
        return CudaKernels(device, dtype, None, str(why))
