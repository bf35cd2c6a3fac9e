"""The built-in torch engine as an adapter.

Knows: how to put kernels, weights and KV memory together. Does not know: steps, policies. Importing this
module loads no torch; building an engine does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from diptych.adapters.protocol import EngineAdapter
from diptych.domain.errors import SpecError


class NativeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to run a model; the names and values are those of `ModelSpec` and `KVSpec`."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    load_format: Literal["auto", "dummy"] = "auto"
    numerics: Literal["auto", "invariant", "fast"] = "auto"
    block_tokens: int = 16
    device: str = "cpu"
    seed: int = 0
    """Of dummy weights."""
    threads: int | None = None
    """Compute threads of this process; None leaves torch's own choice."""


def build_native_engine(
    model_dir: Path,
    options: NativeOptions,
    *,
    total_blocks: int,
    buffer: Any | None = None,
    report: Callable[[str], None] | None = None,
) -> EngineAdapter:
    """An engine with its weights loaded.

    ``buffer`` is the domain's KV segment (writable, buffer protocol) of ``total_blocks`` blocks; None
    allocates private memory, which is what a device other than the CPU needs. ``report`` gets lines for the
    start banner: the kernels, and checkpoint tensors that are not used.

    Raises:
        SpecError: the directory, the weights, the options or the buffer do not fit; or torch is missing.
    """
    try:
        import torch
    except ImportError:
        raise SpecError("the built-in engine needs torch: pip install 'diptych[engine]'") from None
    from diptych.engine.engine import NativeEngine
    from diptych.engine.kv_memory import KVMemory
    from diptych.kernels.choose import choose_kernels
    from diptych.kernels.invariant import InvariantKernels
    from diptych.models.load import load_decoder
    from diptych.models.resolve import read_model_shape

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    shape = read_model_shape(model_dir)
    dtype_name = shape.compute_dtype(options.dtype)
    dtype: torch.dtype = getattr(torch, dtype_name)
    device = torch.device(options.device)
    kernels = choose_kernels(options.numerics, dtype, device)
    if kernels.own_threads:
        torch.set_num_threads(1)
    layout = shape.kv_layout(options.block_tokens, dtype_name)
    memory = (
        KVMemory.allocate(layout, total_blocks, device)
        if buffer is None
        else KVMemory.over(layout, total_blocks, buffer)
    )
    decoder, unused = load_decoder(
        model_dir,
        shape,
        kernels,
        dtype=dtype,
        device=device,
        load_format=options.load_format,
        seed=options.seed,
    )
    if report is not None:
        report(kernels.describe())
        if unused:
            report(f"warning: the checkpoint holds tensors that this model does not use: {', '.join(unused)}")
    return NativeEngine(decoder, memory, device, exact=isinstance(kernels, InvariantKernels))
