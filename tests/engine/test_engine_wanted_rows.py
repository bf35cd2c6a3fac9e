"""Rows of which nothing is wanted leave the last layer early: the others, and all KV, stay the same bit for
bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.domain.ids import RequestId
from diptych.domain.kv import blocks_for
from diptych.domain.request import SamplingParams
from diptych.domain.step import NewSequence, Slice, StepPlan
from diptych.engine.inputs import StepInputs, pack_step
from diptych.engine.kv_memory import KVMemory
from diptych.engine.sequences import Sequences
from diptych.kernels.invariant import InvariantKernels
from diptych.kernels.seam import Kernels
from diptych.models.decoder import Decoder
from diptych.models.load import load_decoder
from diptych.models.resolve import read_model_shape
from support.native_library import native_kernels
from support.tiny_models import TINY_EXPERTS, write_config

CPU = torch.device("cpu")
BLOCK_TOKENS = 8
LONGEST = 40
FAMILIES = {"LlamaForCausalLM": {}, "Gemma3ForCausalLM": {}, "Qwen3MoeForCausalLM": TINY_EXPERTS}
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

pieces = st.tuples(
    st.integers(0, LONGEST - 20),  # start
    st.integers(1, 20),  # rows
    st.integers(0, 12),  # tokens of the prompt that are still to come
    st.booleans(),  # log probabilities of the prompt are asked for
)


def _packed(asked: list[tuple[int, int, int, bool]]) -> StepInputs:
    """A step of pieces of prompts; the last piece of a prompt samples."""
    slices, new = list[Slice](), list[NewSequence]()
    wide = blocks_for(LONGEST + 12, BLOCK_TOKENS)
    for i, (start, rows, rest, logprobs) in enumerate(asked):
        tokens = tuple((7 * p + i) % 160 for p in range(start + rows + rest))
        sampling = SamplingParams(max_tokens=1, seed=0, prompt_logprobs=0 if logprobs else None)
        name = RequestId(f"r{i}")
        new.append(
            NewSequence(request_id=name, token_ids=tokens, prompt_tokens=len(tokens), sampling=sampling)
        )
        slices.append(
            Slice(
                request_id=name,
                token_ids=tokens[start : start + rows],
                start=start,
                block_table=tuple(range(wide * i, wide * (i + 1))),
                sample=not rest,
            )
        )
    sequences = Sequences()
    sequences.update((), new)
    return pack_step(StepPlan(step=0, slices=tuple(slices)), sequences, BLOCK_TOKENS, CPU)


def _loaded(
    folder: Path, architecture: str, kernels: Kernels, dtype: torch.dtype
) -> tuple[Decoder, KVMemory]:
    model_dir = write_config(folder, architecture, head_dim=64, **FAMILIES[architecture])
    shape = read_model_shape(model_dir)
    decoder, _ = load_decoder(model_dir, shape, kernels, dtype=dtype, device=CPU, load_format="dummy")
    return decoder, KVMemory.allocate(shape.kv_layout(BLOCK_TOKENS, NAMES[dtype]), 30, CPU)


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("dtype", NAMES, ids=NAMES.values())
def test_what_is_wanted_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, architecture: str, dtype: torch.dtype
) -> None:
    kernels = InvariantKernels(CPU) if dtype == torch.float32 else native_kernels()
    decoder, memory = _loaded(tmp_path_factory.mktemp("model"), architecture, kernels, dtype)

    @settings(max_examples=25, deadline=None)
    @given(st.lists(pieces, min_size=1, max_size=4))
    def check(asked: list[tuple[int, int, int, bool]]) -> None:
        inputs = _packed(asked).decoder
        written: list[torch.Tensor] = []
        found: list[torch.Tensor] = []
        for asked_for in (inputs, replace(inputs, wanted=None)):
            for layer in memory.layers:
                layer.k_BKSE.fill_(0.5)
                layer.v_BKSE.fill_(0.5)
            found.append(decoder.forward(asked_for, memory.layers))
            written.append(torch.stack([plane for it in memory.layers for plane in (it.k_BKSE, it.v_BKSE)]))
        rows = slice(None) if inputs.wanted is None else inputs.wanted.rows_R
        assert torch.equal(found[0], found[1][rows])
        assert torch.equal(*written)

    check()


def test_only_rows_with_logits_are_wanted() -> None:
    inputs = _packed([(3, 5, 2, False), (0, 4, 0, False), (8, 6, 0, True), (1, 1, 0, False)])
    wanted = inputs.decoder.wanted
    assert wanted is not None
    assert wanted.rows_R.tolist() == [8, *range(9, 15), 15]
    found = [(span.first_row, span.rows, span.start) for span in wanted.spans]
    assert found == [(0, 1, 3), (1, 6, 8), (7, 1, 1)]
    assert [row.row for row in inputs.samples] == [0, 6, 7]
    assert [(rows.first, rows.start, rows.count) for rows in inputs.prompts] == [(1, 9, 5)]


def test_a_step_of_decodes_wants_all() -> None:
    assert _packed([(3, 1, 0, False), (0, 1, 0, False)]).decoder.wanted is None


def test_nothing_is_wanted_of_a_chunk_in_the_middle() -> None:
    wanted = _packed([(3, 5, 2, False)]).decoder.wanted
    assert wanted is not None
    assert wanted.rows_R.shape == (0,)
    assert wanted.spans == ()
