"""The whole forward pass with tensors that claim to be on a CUDA device: shapes, dtypes and devices fit, and
nothing is read back.

Fake tensors have no values, so whatever waits for one raises. Three operations ask the build of torch itself
for the device before a fake tensor is asked; a torch without CUDA refuses them, so they are spelt otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.overrides import TorchFunctionMode

from diptych.domain.ids import RequestId
from diptych.domain.request import SamplingParams
from diptych.domain.step import NewSequence, Slice, StepPlan
from diptych.engine.graphs import GraphRunner
from diptych.engine.inputs import pack_step
from diptych.engine.kv_memory import KVMemory
from diptych.engine.sequences import Sequences
from diptych.kernels.cuda import CudaKernels
from diptych.kernels.seam import Span
from diptych.models.load import load_decoder
from diptych.models.resolve import read_model_shape
from support.tiny_models import TINY_EXPERTS, write_config

CUDA = torch.device("cuda:0")
BLOCK_TOKENS = 8


def _rms_norm(x: Tensor, shape: tuple[int, ...], weight: Tensor, eps: float) -> Tensor:
    return (x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


def _get(x: Tensor, index: Any) -> Tensor:
    if isinstance(index, Tensor):
        return torch.ops.aten.index.Tensor(x, [index])
    dim = 0
    for part in index if isinstance(index, tuple) else (index,):
        if isinstance(part, int):
            x = x.select(dim, part)
            continue
        if part is None:
            x = x.unsqueeze(dim)
        else:
            x = torch.ops.aten.slice.Tensor(x, dim, part.start or 0, part.stop)
        dim += 1
    return x


def _set(x: Tensor, index: Any, values: Tensor) -> None:
    blocks, everything, slots = index
    assert everything == slice(None)
    torch.ops.aten.index_put_(x, [blocks, None, slots], values)


def _copy(x: Tensor, values: Tensor) -> Tensor:
    assert x.shape == values.shape and x.dtype == values.dtype and values.device == x.device
    return x


SPELT: dict[Any, Callable[..., Any]] = {
    torch.nn.functional.rms_norm: _rms_norm,
    Tensor.__getitem__: _get,
    Tensor.__setitem__: _set,
    Tensor.copy_: _copy,
}


class Elsewhere(TorchFunctionMode):
    """The operations that a torch without CUDA refuses even for fake tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        spelt = SPELT.get(func)
        on_cuda = args and isinstance(args[0], Tensor) and args[0].device.type == "cuda"
        return (spelt if spelt and on_cuda else func)(*args, **(kwargs or {}))


def _step() -> tuple[StepPlan, Sequences]:
    """A decode, a chunk in the middle of a prompt, a prompt from its start, another decode."""
    pieces = [(30, 1), (16, 9), (0, 20), (8, 1)]
    sequences, slices, new = Sequences(), list[Slice](), list[NewSequence]()
    for i, (start, rows) in enumerate(pieces):
        name = RequestId(f"r{i}")
        tokens = tuple((7 * p + i) % 160 for p in range(start + rows))
        new.append(
            NewSequence(
                request_id=name,
                token_ids=tokens,
                prompt_tokens=len(tokens),
                sampling=SamplingParams(max_tokens=1, seed=0),
            )
        )
        table = tuple(range(5 * i, 5 * i + 5))
        slices.append(
            Slice(request_id=name, token_ids=tokens[start:], start=start, block_table=table, sample=i != 1)
        )
    sequences.update((), new)
    return StepPlan(step=0, slices=tuple(slices)), sequences


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen3ForCausalLM", "Gemma3ForCausalLM"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_step_stays_on_the_device(tmp_path: Path, architecture: str, dtype: torch.dtype) -> None:
    model_dir = write_config(tmp_path, architecture)
    shape = read_model_shape(model_dir)
    with FakeTensorMode(), Elsewhere():
        kernels = CudaKernels(CUDA, dtype, None)
        decoder, _ = load_decoder(model_dir, shape, kernels, dtype=dtype, device=CUDA, load_format="dummy")
        memory = KVMemory.allocate(shape.kv_layout(BLOCK_TOKENS, str(dtype).split(".")[-1]), 41, CUDA)
        plan, sequences = _step()
        inputs = pack_step(plan, sequences, BLOCK_TOKENS, CUDA)
        hidden_RD = decoder.forward(inputs.decoder, memory.layers)
        logits_RV = decoder.logits(hidden_RD)
        assert inputs.decoder.token_ids_T.shape == (31,)
        assert hidden_RD.shape == (3, shape.hidden)
        assert (logits_RV.shape, logits_RV.dtype, logits_RV.device) == ((3, shape.vocab), dtype, CUDA)
        with pytest.raises(DataDependentOutputException):
            decoder.likeliest(logits_RV)


def test_the_groups_of_experts_do_wait_for_the_host(tmp_path: Path) -> None:
    """Which is why mixtures get no graphs; were it not so, they could have them."""
    model_dir = write_config(tmp_path, "Qwen3MoeForCausalLM", **TINY_EXPERTS)
    shape = read_model_shape(model_dir)
    with FakeTensorMode(), Elsewhere():
        kernels = CudaKernels(CUDA, torch.float32, None)
        decoder, _ = load_decoder(
            model_dir, shape, kernels, dtype=torch.float32, device=CUDA, load_format="dummy"
        )
        memory = KVMemory.allocate(shape.kv_layout(BLOCK_TOKENS, "float32"), 41, CUDA)
        plan, sequences = _step()
        inputs = pack_step(plan, sequences, BLOCK_TOKENS, CUDA)
        with pytest.raises(DynamicOutputShapeException, match="bincount"):
            decoder.forward(inputs.decoder, memory.layers)


class _Recorded:
    def __init__(self, result: Tensor) -> None:
        self._result = result

    def replay(self) -> Tensor:
        return self._result


class _Recorder:
    def __init__(self) -> None:
        self.results: list[Tensor] = []

    def capture(self, run: Callable[[], Tensor]) -> _Recorded:
        self.results.append(run())
        return _Recorded(self.results[-1])


def test_graphs_are_recorded_and_refilled_on_the_device(tmp_path: Path) -> None:
    model_dir = write_config(tmp_path, "Gemma3ForCausalLM")
    shape = read_model_shape(model_dir)
    with FakeTensorMode(), Elsewhere():
        kernels = CudaKernels(CUDA, torch.bfloat16, None)
        decoder, _ = load_decoder(
            model_dir, shape, kernels, dtype=torch.bfloat16, device=CUDA, load_format="dummy"
        )
        memory = KVMemory.allocate(shape.kv_layout(BLOCK_TOKENS, "bfloat16"), 41, CUDA)
        recorder = _Recorder()
        runner = GraphRunner(decoder, memory, kernels, recorder, CUDA, 16)
        runner.capture_short()
        assert [logits_NV.shape[0] for logits_NV in recorder.results] == [1, 2, 4, 8, 16]
        assert {logits_NV.device for logits_NV in recorder.results} == {CUDA}
        assert {logits_NV.dtype for logits_NV in recorder.results} == {torch.bfloat16}
        held = kernels.hold(2, 4, next(iter(decoder.attention_shapes(BLOCK_TOKENS).values())))
        assert held is not None
        held.refill((Span(0, 1, 30, (3, 1, 4, 5)), Span(1, 1, 0, (40,))))
