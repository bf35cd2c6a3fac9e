"""Which kernels a worker computes with.

Knows: numerics policy and dtype. Does not know: models.
"""

from __future__ import annotations

from typing import Literal

import torch

from diptych.domain.errors import SpecError
from diptych.kernels.fast import FastKernels
from diptych.kernels.invariant import InvariantKernels
from diptych.kernels.native.kernels import NativeKernels
from diptych.kernels.native.load import NotNative, library
from diptych.kernels.seam import Kernels

Numerics = Literal["auto", "invariant", "fast"]


def choose_kernels(numerics: Numerics, dtype: torch.dtype, device: torch.device) -> Kernels:
    """'auto' is invariant in float32, native in bfloat16 where the processor can, and fast otherwise.

    Raises:
        SpecError: invariant numerics for another dtype than float32.
    """
    exact = dtype == torch.float32
    if numerics == "invariant" and not exact:
        raise SpecError(f"numerics 'invariant' needs dtype 'float32', not '{str(dtype).split('.')[-1]}'")
    if numerics == "invariant" or (numerics == "auto" and exact):
        return InvariantKernels(device)
    if dtype == torch.bfloat16 and device.type == "cpu":
        try:
            return NativeKernels(library(), torch.get_num_threads())
        except NotNative as why:
            return FastKernels(device, dtype, f"native kernels: {why}")
    return FastKernels(device, dtype)
