"""What rounded weights do to the built-in model: perplexity, divergence, greedy answers.

Perplexity and divergence are taken over the tokens of held-out text that the model is to produce; the
divergence (Kullback–Leibler, in nats a token) is from the unrounded model in float32. Greedy answers run as
a cluster runs them: one engine prefills, another decodes from its KV.

Knows: decoders, engines, held-out text. Does not know: time.

Shapes: T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.heldout import HeldOut
from benchmarks.steps import BLOCK_TOKENS, SAMPLING
from diptych.adapters.native import NativeOptions, build_native_engine
from diptych.adapters.protocol import EngineAdapter
from diptych.builtin import builtin_model_dir
from diptych.domain.cluster import WeightFormat
from diptych.domain.ids import RequestId
from diptych.domain.kv import blocks_for
from diptych.domain.step import NewSequence, Slice, StepPlan
from diptych.engine.kv_memory import KVMemory
from diptych.kernels.choose import choose_kernels
from diptych.kernels.invariant import InvariantKernels
from diptych.kernels.quantised import RoundedWeight
from diptych.kernels.seam import Kernels, PackedLinear, Span
from diptych.models.decoder import Decoder, DecoderInputs
from diptych.models.load import load_decoder
from diptych.models.resolve import read_model_shape

CPU = torch.device("cpu")
ANSWER_TOKENS, BATCH = 48, 32

Dtype = Literal["float32", "bfloat16"]
Rounding = Callable[[Tensor], Tensor]
"""From a weight to what it is rounded to, as floats."""


@dataclass(frozen=True)
class Pair:
    """In which numbers one worker prefills and another decodes."""

    dtype: Dtype
    prefill: WeightFormat
    decode: WeightFormat


class Tried(InvariantKernels):
    """Float32 kernels that round weights in a way of their own before they pack them."""

    def __init__(self, layer: Rounding, head: Rounding) -> None:
        super().__init__(CPU)
        self._layer, self._head = layer, head
        self._vocab = read_model_shape(builtin_model_dir()).vocab

    def pack(self, weight_ND: Tensor | RoundedWeight, bias_N: Tensor | None = None) -> PackedLinear:
        """See `Kernels.pack`."""
        assert isinstance(weight_ND, Tensor)
        rounding = self._head if weight_ND.shape[0] == self._vocab else self._layer
        return super().pack(rounding(weight_ND), bias_N)


class Judge:
    """Compares with the unrounded model in float32."""

    def __init__(self, text: HeldOut) -> None:
        self._text = text
        self._exact = self._logprobs(InvariantKernels(CPU), torch.float32, "same")

    def kernels(self, dtype: Dtype, weights: WeightFormat) -> dict[str, Any]:
        """The figures of the kernels that a worker would choose."""
        torch_dtype: torch.dtype = getattr(torch, dtype)
        return self._figures(self._logprobs(choose_kernels("auto", torch_dtype, CPU), torch_dtype, weights))

    def tried(self, layer: Rounding, head: Rounding) -> dict[str, Any]:
        """The figures of another way to round."""
        return self._figures(self._logprobs(Tried(layer, head), torch.float32, "same"))

    def _figures(self, found: list[Tensor]) -> dict[str, Any]:
        exact_TV, found_TV = torch.cat(self._exact), torch.cat(found)
        targets_T = torch.cat(
            [
                row_T[1:][kept_T[1:]]
                for row_T, kept_T in zip(self._text.tokens_RT, self._text.produced_RT, strict=True)
            ]
        )
        losses_T = -found_TV.gather(1, targets_T.unsqueeze(1))
        return {
            "tokens": len(targets_T),
            "perplexity": losses_T.mean().exp().item(),
            "divergence_nats": (exact_TV.exp() * (exact_TV - found_TV)).sum(1).mean().item(),
            "same_likeliest": (exact_TV.argmax(1) == found_TV.argmax(1)).float().mean().item(),
        }

    @torch.inference_mode()
    def _logprobs(self, kernels: Kernels, dtype: torch.dtype, weights: WeightFormat) -> list[Tensor]:
        """Row by row, of the tokens that the model is to produce."""
        folder = builtin_model_dir()
        shape = read_model_shape(folder)
        decoder, _ = load_decoder(folder, shape, kernels, dtype=dtype, device=CPU, weights=weights)
        blocks = blocks_for(self._text.tokens_RT.shape[1], BLOCK_TOKENS)
        layout = shape.kv_layout(BLOCK_TOKENS, str(dtype).split(".")[-1])
        memory = KVMemory.allocate(layout, blocks, CPU)
        rows = zip(self._text.tokens_RT, self._text.produced_RT, strict=True)
        return [_row(decoder, memory, row_T)[kept_T[1:]] for row_T, kept_T in rows]


def _row(decoder: Decoder, memory: KVMemory, row_T: Tensor) -> Tensor:
    """Log-probabilities of what follows each token but the last, [T, V]."""
    tokens = len(row_T) - 1
    positions_T = torch.arange(tokens)
    span = Span(0, tokens, 0, tuple(range(blocks_for(tokens, BLOCK_TOKENS))))
    hidden_TD = decoder.forward(DecoderInputs(row_T[:-1], positions_T, positions_T, (span,)), memory.layers)
    return decoder.logits(hidden_TD).float().log_softmax(1)


def answers(pair: Pair, text: HeldOut) -> list[tuple[int, ...]]:
    """Greedy answers, each up to the token that ends it."""
    folder = builtin_model_dir()
    shape = read_model_shape(folder)
    most = max(map(len, text.prompts)) + ANSWER_TOKENS
    blocks = blocks_for(most, BLOCK_TOKENS)
    buffer = bytearray(shape.kv_layout(BLOCK_TOKENS, pair.dtype).segment_bytes(BATCH * blocks))
    prefill, decode = (
        build_native_engine(
            folder,
            NativeOptions(dtype=pair.dtype, block_tokens=BLOCK_TOKENS, weights=weights),
            total_blocks=BATCH * blocks,
            buffer=buffer,
        )
        for weights in (pair.prefill, pair.decode)
    )
    found: list[tuple[int, ...]] = []
    for first in range(0, len(text.prompts), BATCH):
        found += _together(prefill, decode, text.prompts[first : first + BATCH], blocks)
    return [_until(it, text.end) for it in found]


def _together(
    prefill: EngineAdapter, decode: EngineAdapter, prompts: tuple[tuple[int, ...], ...], blocks: int
) -> list[tuple[int, ...]]:
    tokens = [list(prompt) for prompt in prompts]
    for step in range(ANSWER_TOKENS):
        engine = decode if step else prefill
        new = [
            NewSequence(
                request_id=RequestId(f"r{i}"),
                token_ids=tuple(tokens[i]),
                prompt_tokens=len(prompts[i]),
                sampling=SAMPLING,
            )
            for i in range(len(prompts))
        ]
        slices = [
            Slice(
                request_id=it.request_id,
                token_ids=it.token_ids[-1:] if step else it.token_ids,
                start=len(it.token_ids) - 1 if step else 0,
                block_table=tuple(range(i * blocks, (i + 1) * blocks)),
                sample=True,
            )
            for i, it in enumerate(new)
        ]
        ended = tuple(it.request_id for it in new)
        result = engine.execute(StepPlan(step=step, slices=tuple(slices), new=tuple(new), ended=ended))
        for i, it in enumerate(new):
            tokens[i].append(result.sampled[it.request_id].token_id)
    return [tuple(it[len(prompt) :]) for it, prompt in zip(tokens, prompts, strict=True)]


def _until(answer: tuple[int, ...], end: int) -> tuple[int, ...]:
    return answer[: answer.index(end) + 1] if end in answer else answer


def agreement(expected: list[tuple[int, ...]], found: list[tuple[int, ...]]) -> dict[str, Any]:
    """How far answers are alike: by whole answers, by tokens, and where those that differ part."""
    pairs = list(zip(expected, found, strict=True))
    parted = [_first_difference(one, other) for one, other in pairs if one != other]
    alike = sum(_first_difference(one, other) for one, other in pairs)
    return {
        "answers": len(pairs),
        "whole_answers_alike": 1 - len(parted) / len(pairs),
        "tokens_before_any_difference": alike / sum(map(len, expected)),
        "mean_first_difference": mean(parted) if parted else None,
        "mean_length": mean(map(len, expected)),
    }


def _first_difference(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    pairs = zip(one, other, strict=False)
    return next((i for i, (left, right) in enumerate(pairs) if left != right), min(len(one), len(other)))
