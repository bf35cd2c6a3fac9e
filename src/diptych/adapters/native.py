"""The built-in torch engine as an adapter.

Knows: how to put kernels, weights and KV memory together. Does not know: steps, policies. Importing this
module loads no torch; building an engine does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from diptych.adapters.protocol import EngineAdapter
from diptych.domain.cluster import WeightFormat
from diptych.domain.errors import SpecError
from diptych.domain.kv import KVLayout

if TYPE_CHECKING:
    import torch

    from diptych.engine.graphs import GraphRunner
    from diptych.engine.kv_memory import KVMemory
    from diptych.kernels.seam import Kernels
    from diptych.models.decoder import Decoder
    from diptych.models.family import Part
    from diptych.models.load import Through


class NativeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to run a model; the names and values are those of `ModelSpec`, `PoolSpec` and `KVSpec`."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    load_format: Literal["auto", "dummy"] = "auto"
    numerics: Literal["auto", "invariant", "fast"] = "auto"
    weights: WeightFormat = "same"
    block_tokens: int = 16
    device: str = "cpu"
    """As `PoolSpec.torch_device`."""
    max_running: int = 64
    """Most sequences of one step: the largest batch for which a graph is recorded."""
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
    weights_fd: int | None = None,
    report: Callable[[str], None] = lambda _: None,
    reached: Callable[[str], None] = lambda _: None,
) -> EngineAdapter:
    """An engine with its weights loaded.

    ``buffer`` is the domain's KV segment (writable, buffer protocol) of ``total_blocks`` blocks; None
    allocates private memory, and one block more for graphs, on the engine's device. ``weights_fd`` is an
    unsealed memory file: all processes that are given the same one and build the same engine hold one copy of
    the weights. ``report`` gets lines for the start banner: the kernels, where the weights lie, and
    checkpoint tensors that are not used. ``reached`` is told the name of each stage of the start when it has
    ended.

    Raises:
        SpecError: the directory, the weights, the options or the buffer do not fit; torch or the device is
            missing.
    """
    try:
        import torch
    except ImportError:
        raise SpecError("the built-in engine needs torch: pip install 'diptych[engine]'") from None
    from diptych.engine.engine import NativeEngine
    from diptych.engine.kv_memory import KVMemory
    from diptych.kernels.choose import choose_kernels
    from diptych.kernels.cuda_device import open_device
    from diptych.kernels.invariant import InvariantKernels
    from diptych.models.load import load_decoder
    from diptych.models.resolve import read_model_shape

    reached("libraries")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    shape = read_model_shape(model_dir)
    dtype_name = shape.compute_dtype(options.dtype)
    dtype: torch.dtype = getattr(torch, dtype_name)
    device = torch.device(options.device)
    open_device(device)
    if buffer is not None and device.type != "cpu":
        raise SpecError(f"torch_device '{device}' cannot compute in the host's shared KV memory")
    kernels = choose_kernels(options.numerics, dtype, device)
    if kernels.own_threads:
        torch.set_num_threads(1)
    layout = shape.kv_layout(options.block_tokens, dtype_name)
    memory = (
        _private_memory(layout, total_blocks, device)
        if buffer is None
        else KVMemory.over(layout, total_blocks, buffer)
    )
    report(kernels.describe())
    if weights_fd is None or options.device != "cpu":
        through = iter
    elif kernels.packing is None:
        report("weights apart in each worker: the order of oneDNN cannot be shared")
        through = iter
    else:
        through = _sharing(weights_fd, _weights_key(model_dir, options, dtype_name, kernels.packing), report)
    decoder, unused = load_decoder(
        model_dir,
        shape,
        kernels,
        dtype=dtype,
        device=device,
        load_format=options.load_format,
        weights=options.weights,
        seed=options.seed,
        through=through,
    )
    if unused:
        report(f"warning: the checkpoint holds tensors that this model does not use: {', '.join(unused)}")
    reached("weights")
    return NativeEngine(
        decoder,
        memory,
        device,
        exact=isinstance(kernels, InvariantKernels),
        graphs=_graphs(decoder, memory, kernels, device, options.max_running, report),
    )


def _private_memory(layout: KVLayout, blocks: int, device: torch.device) -> KVMemory:
    import torch

    from diptych.engine.kv_memory import KVMemory

    try:
        return KVMemory.allocate(layout, blocks + 1, device)
    except torch.OutOfMemoryError as error:
        raise SpecError(
            f"torch_device '{device}' has no room for {blocks + 1} KV blocks of {layout.block_bytes} bytes "
            f"({str(error).splitlines()[0]}); lower kv.memory_bytes"
        ) from None


def _graphs(
    decoder: Decoder,
    memory: KVMemory,
    kernels: Kernels,
    device: torch.device,
    most_rows: int,
    report: Callable[[str], None],
) -> GraphRunner | None:
    """Recorded decode steps, where there is a device that gains by them and nothing waits for the host."""
    from diptych.engine.capture import CudaCapture
    from diptych.engine.graphs import GraphRunner
    from diptych.kernels.cuda import CudaKernels

    if device.type != "cuda" or not isinstance(kernels, CudaKernels):
        return None
    if decoder.shape.mixture is not None:
        report("decode steps without graphs: the groups of a mixture of experts are counted on the host")
        return None
    return GraphRunner(decoder, memory, kernels, CudaCapture(device), device, most_rows)


def _weights_key(model_dir: Path, options: NativeOptions, dtype: str, packing: str) -> dict[str, str]:
    """All that packed weights depend on, see `diptych.engine.shared_parts`."""
    from diptych.models.identity import files_identity

    asked = {name: str(value) for name, value in msgspec.structs.asdict(options).items()}
    for of_no_matter in ("threads", "block_tokens", "max_running"):
        del asked[of_no_matter]
    return {
        **asked,
        "model directory": str(model_dir.resolve()),
        "dtype": dtype,
        "packing": packing,
        **files_identity(model_dir, weights=options.load_format != "dummy"),
    }


def _sharing(fd: int, key: dict[str, str], report: Callable[[str], None]) -> Through:
    from diptych.engine.shared_parts import share_parts

    def through(parts: Iterator[Part]) -> Iterable[Part]:
        shared = share_parts(fd, key, parts)
        pages = f", {shared.huge_bytes / shared.size_bytes:.0%} on large pages" if shared.huge_bytes else ""
        report(f"weights of {shared.size_bytes / 2**20:,.0f} MiB in memory once for all workers{pages}")
        return shared.parts

    return through
