"""The built-in engine: `StepPlan` in, `StepResult` out.

Knows: the order of a step (copies, ended, new, forward, sample). Does not know: why the plan is as it is.

Shapes: R rows with logits, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor

from diptych.domain.ids import RequestId
from diptych.domain.kv import KVLayout
from diptych.domain.request import Logprob, Sampled
from diptych.domain.step import StepPlan, StepResult
from diptych.engine.graphs import GraphRunner
from diptych.engine.inputs import PromptRows, SampleRow, StepInputs, pack_step
from diptych.engine.kv_memory import KVMemory
from diptych.engine.logprobs import logprobs
from diptych.engine.runner import Runner, Scores
from diptych.engine.sampler import Draw, sample, takes_likeliest
from diptych.engine.sequences import Sequences
from diptych.engine.warm_up import warm_up
from diptych.models.decoder import Decoder
from diptych.transfer.copy import copy_blocks


class NativeEngine:
    """Implements `EngineAdapter` with torch."""

    def __init__(
        self,
        decoder: Decoder,
        memory: KVMemory,
        device: torch.device,
        *,
        exact: bool,
        graphs: GraphRunner | None = None,
        now_s: Callable[[], float] = perf_counter,
    ) -> None:
        """``exact``: the kernels promise that a row's bits depend on the row alone (`warm_up` checks it).
        ``graphs``: runs the steps over ``memory``, decodes as graphs; None: each step as it comes."""
        self._decoder = decoder
        self._memory = memory
        self._device = device
        self._exact = exact
        self._now_s = now_s
        self._graphs = graphs
        self._runner = graphs or Runner(decoder, memory)
        self._sequences = Sequences()

    @property
    def layout(self) -> KVLayout:
        """See `EngineAdapter.layout`."""
        return self._memory.layout

    @torch.inference_mode()
    def execute(self, plan: StepPlan) -> StepResult:
        """See `EngineAdapter.execute`.

        Raises:
            SpecError: the model yields numbers that are not finite.
            Bug: the plan contradicts itself or an earlier one.
        """
        began_s = self._now_s()
        copied_bytes = copy_blocks(self._memory.planes(), plan.copies)
        copied_s = self._now_s()
        self._sequences.update(plan.ended, plan.new)
        if not plan.slices:
            self._wait()
            return StepResult(sampled={}, copied_bytes=copied_bytes, copy_s=copied_s - began_s)
        inputs = pack_step(plan, self._sequences, self.layout.block_tokens, self._device)
        scores = self._runner.scores(inputs)
        if not scores.likeliest_R:
            self._wait()
        return StepResult(
            sampled=_sampled(scores, inputs.samples, self._decoder.draw),
            prompt_logprobs=_prompt_logprobs(scores.logits_RV, inputs),
            copied_bytes=copied_bytes,
            copy_s=copied_s - began_s,
            forward_s=self._now_s() - copied_s,
        )

    @torch.inference_mode()
    def warm_up(self) -> None:
        """See `EngineAdapter.warm_up`. Uses memory of its own: the shared blocks may be in use by others.
        Graphs use their spare block.

        Raises:
            SpecError: the kernels promise row independence, and this machine's libraries break it.
        """
        warm_up(self._decoder, self.layout, self._device, exact=self._exact)
        if self._graphs is not None:
            self._graphs.capture_short()

    def _wait(self) -> None:
        """Until the device is done; whoever reads results has waited already."""
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()


def _sampled(scores: Scores, rows: tuple[SampleRow, ...], draw: Draw) -> dict[RequestId, Sampled]:
    """Rows whose likeliest token is the choice are not looked at again."""
    token_ids = {row.row: scores.likeliest_R[row.row] for row in rows}
    others = [row for row in rows if not takes_likeliest(row)]
    if others:
        picked = [row.row for row in others]
        token_ids.update(zip(picked, sample(scores.logits_RV[picked], others, draw), strict=True))
    return {
        row.state.request_id: Sampled(
            token_ids[row.row], _token_logprob(scores.logits_RV[row.row], token_ids[row.row], row)
        )
        for row in rows
    }


def _token_logprob(logits_V: Tensor, token_id: int, row: SampleRow) -> Logprob | None:
    wanted = row.state.sampling.logprobs
    return None if wanted is None else logprobs(logits_V.unsqueeze(0), [token_id], wanted)[0]


def _prompt_logprobs(logits_RV: Tensor, inputs: StepInputs) -> dict[RequestId, tuple[Logprob, ...]]:
    return {rows.state.request_id: _entries(logits_RV, rows) for rows in inputs.prompts}


def _entries(logits_RV: Tensor, rows: PromptRows) -> tuple[Logprob, ...]:
    targets = rows.state.token_ids[rows.start : rows.start + rows.count]
    scores_RV = logits_RV[rows.first : rows.first + rows.count]
    return logprobs(scores_RV, targets, rows.state.sampling.prompt_logprobs or 0)
