"""Small lists of numbers on their way from the host to a device.

Knows: pinned memory. Does not know: what the numbers mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def upload(values: Sequence[Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    """``values`` (nested for more dimensions) on ``device``. Nobody waits: a copy to a CUDA device starts
    from pinned memory, which torch keeps until the copy is done."""
    return on_host(values, dtype, device).to(device, non_blocking=True)


def on_host(values: Sequence[Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    """``values`` in host memory from which ``device`` can copy while the host goes on."""
    pinned = device.type == "cuda" and torch.cuda.is_available()
    return torch.tensor(values, dtype=dtype, pin_memory=pinned)
