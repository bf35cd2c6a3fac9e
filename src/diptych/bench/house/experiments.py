"""What to ask a cluster so that every single step has a known size.

Knows: which chunks, batches and contexts a request causes on an otherwise idle cluster. Does not know: how a
profile
follows from the samples.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import TypeAlias

import msgspec

from diptych.bench.house.ask import House
from diptych.bench.house.steps import Step, StepWatch
from diptych.domain.cluster import ClusterSpec
from diptych.domain.worker import Role
from diptych.workload.record import Arrival

PROMPTS = (1, 13, 29, 45, 67, 90, 117, 150, 201, 262, 331, 410, 487, 1024, 2048)
"""Odd lengths: kernels round up to tiles, and what real prompts pay for that is the average."""

BESIDE = (90, 201, 410, 1024)
BEHIND = (90, 201, 410)
PREFIX_TOKENS = 512
"""Prompts beside decodes; prompts behind a cached prefix, and its length."""

BATCHES = (1, 2, 4, 8, 12, 16, 24, 32)
CONTEXTS = (32, 256, 1024)
"""Prompt lengths, batches and contexts that are tried, as far as the model and the spec allow."""

MOST_CONTEXT_TOKENS = 8192
"""Of a batch: its prompts take the longest of all, and by then the slope over the context is known."""

BESIDE_BATCHES = ((2, 128), (8, 512))
"""Batches, and the mean context of their sequences, beside which prompts are computed."""

ROUNDS = 2
"""All that is not a single prompt comes so many times, and batches twice in each, there and back: a machine
that is slow for some seconds must not spoil half of the samples of one kind. A batch's contexts follow each
other, since the slope over the context is small beside what moments differ by."""

VISITS = 5
"""So many times come all single prompts, with batches in between. A length has a row of the profile for
itself, so one slow moment must never be half of its samples."""

REPEATS = 2
"""Single prompts of a length in a visit; fewer when they are slow."""

BATCH_REPEATS = 2
"""A batch decodes a few tokens so many times in a row: steps of one moment are alike, those of the next are
not."""

REST_S = 0.1
"""Before each single prompt, as between the prompts of a worker with some load: a core that has rested so
long computes the next prompt 5 % slower than one that has not."""

EXPERIMENT_S = 1.5
"""After so long a batch is not repeated, nor a prompt after half of it."""

FEW_TOKENS = 10
"""Output of the sequences of a batch, and one more for each of them: they do not all begin in one step."""

ID_BITS = 20
"""Of a batch's number, its context, its sequence, in the name of a prompt that comes twice."""

BESIDE_TOKENS = 96
"""Output of sequences beside which prompts are computed."""


class PrefillSample(msgspec.Struct, frozen=True):
    """One step with a share of one prompt, beside ``decodes`` sequences of ``context_tokens`` altogether."""

    new_tokens: int
    cached_tokens: int
    seconds: float
    decodes: int = 0
    context_tokens: int = 0


class DecodeSample(msgspec.Struct, frozen=True):
    """One step that only decodes."""

    batch: int
    context_tokens: int
    seconds: float


class Beside(msgspec.Struct, kw_only=True):
    """Prompts computed in the steps of a batch that decodes, and the same without, a moment before or after:
    what they cost each other is the ratio, whatever the machine's speed was."""

    prompts: list[PrefillSample] = []
    prompts_alone: list[PrefillSample] = []
    decodes_alone: list[DecodeSample] = []


class Samples(msgspec.Struct, kw_only=True):
    """Everything measured of one cluster. Seconds."""

    prefill: list[PrefillSample] = []
    decode: list[DecodeSample] = []
    beside: list[Beside] = []
    dispatch_s: list[float] = []
    handoff_s: list[float] = []
    """To an idle worker: the wait for a step under way is the simulator's business."""


Experiment: TypeAlias = tuple[Callable[[int, int], Awaitable[None]], int, int]
"""What to do, with which two numbers."""


def interleaved(visited: Sequence[Experiment], others: Sequence[Experiment]) -> list[Experiment]:
    """``visited`` as a whole `VISITS` times, and an even share of ``others`` after each."""
    ends = [len(others) * visit // VISITS for visit in range(VISITS + 1)]
    shares = [others[start:end] for start, end in pairwise(ends)]
    return [experiment for share in shares for experiment in (*visited, *share)]


class Experiments:
    """Runs them one after the other on a cluster that nobody else uses. ``say`` hears what comes next."""

    def __init__(self, house: House, watch: StepWatch, say: Callable[[str, float], None]) -> None:
        self._house = house
        self._watch = watch
        self._say = say
        spec: ClusterSpec = house.cluster.spec
        self._roles = {pool.role for pool in spec.pools}
        self._budget = min(pool.token_budget for pool in spec.pools)
        self._longest = house.cluster.max_model_tokens
        self._prompt_cache = spec.kv.prompt_cache
        self._prefix = max(1, PREFIX_TOKENS // spec.kv.block_tokens) * spec.kv.block_tokens
        self._most = max(pool.max_running for pool in spec.pools if pool.role is not Role.PREFILL)
        self._room = min(share.arena.blocks * spec.kv.block_tokens for share in house.cluster.shares)
        self.samples = Samples()

    async def run(self) -> Samples:
        """All of them."""
        prompts = [n for n in sorted({*PROMPTS, self._budget}) if self._possible(n)]
        contexts = [n for n in CONTEXTS if 2 * n < self._longest - FEW_TOKENS]
        single: list[Experiment] = [(self._single, n, 0) for n in prompts]
        batches: list[Experiment] = [
            (self._batch, b, c) for b in BATCHES if b <= self._most for c in contexts if self._fits(b, c)
        ]
        other: list[Experiment] = []
        if self._prompt_cache:
            other += [(self._behind, n, self._prefix) for n in BEHIND if self._possible(n + self._prefix)]
        if Role.MIXED in self._roles:
            other += [
                (partial(self._prompts_beside, context), b, n)
                for b, context in self._batches_beside()
                for n in BESIDE
                if self._possible(n)
            ]
        await self._warm_up(prompts)
        plan = interleaved(single, [*batches, *other, *reversed(batches)] * ROUNDS)
        for number, (experiment, first, second) in enumerate(plan):
            self._say(_words(experiment, first, second), number / len(plan))
            await experiment(first, second)
        return self.samples

    async def _warm_up(self, prompts: Sequence[int]) -> None:
        """The first steps of an engine's life pay for first use."""
        for tokens in (prompts[0], prompts[-1]):
            await self._house.together([Arrival(t_s=0, input_tokens=tokens, output_tokens=2)])
        await self._steps()

    def _possible(self, prompt: int) -> bool:
        return prompt < self._longest - 2 and prompt <= self._room // 2

    def _fits(self, batch: int, context: int) -> bool:
        tokens = batch * (context + FEW_TOKENS + batch)
        return batch * context <= MOST_CONTEXT_TOKENS and tokens <= self._room * 3 // 4

    # ------------------------------------------------------------ prompts alone

    async def _single(self, tokens: int, _unused: int) -> None:
        for _ in range(REPEATS):
            await asyncio.sleep(REST_S)
            answer = (await self._house.together([Arrival(t_s=0, input_tokens=tokens, output_tokens=2)]))[0]
            steps = await self._steps()
            prefills = [step for step in steps if step.prefill_tokens]
            cached = 0
            for step in prefills:
                self.samples.prefill.append(PrefillSample(step.prefill_tokens, cached, step.taken_s))
                cached += step.prefill_tokens
            taken_s = sum(step.busy_s for step in prefills)
            if cached == tokens and answer.first_s is not None:
                self.samples.dispatch_s.append(max(0.0, answer.ttft_s - taken_s))
            if answer.report is not None and answer.report.handoff.blocks:
                self.samples.handoff_s.append(answer.report.handoff.handoff_s)
            if taken_s > EXPERIMENT_S / 2:
                return

    async def _behind(self, tokens: int, prefix: int) -> None:
        """Prompts that find their first ``prefix`` tokens cached, once one has left them there."""
        arrival = Arrival(t_s=0, input_tokens=prefix + tokens, output_tokens=2, hash_ids=(0,))
        for _ in range(1 + REPEATS):
            await asyncio.sleep(REST_S)
            await self._house.together([arrival], trace_block_tokens=prefix)
            steps = [step for step in await self._steps() if step.prefill_tokens]
            if len(steps) == 1 and steps[0].prefill_tokens == tokens:
                self.samples.prefill.append(PrefillSample(tokens, prefix, steps[0].busy_s))

    # ------------------------------------------------------------ decodes alone

    async def _batch(self, batch: int, context: int) -> None:
        arrivals = await self._begun(batch, context, FEW_TOKENS + batch)
        taken_s = 0.0
        for _ in range(BATCH_REPEATS):
            await asyncio.sleep(REST_S)
            await self._house.together(arrivals, trace_block_tokens=self._longest)
            decoded = 0
            for step in await self._steps():
                if step.decode_tokens == batch and not step.prefill_tokens and step.gap_s is not None:
                    sample = DecodeSample(batch, batch * context + decoded, step.gap_s)
                    self.samples.decode.append(sample)
                decoded += step.decode_tokens
                taken_s += step.busy_s
            if taken_s > EXPERIMENT_S:
                return

    async def _begun(self, batch: int, context: int, output_tokens: int) -> list[Arrival]:
        """A batch whose prompts are cached, so that all of it decodes together. Computed one by one, the
        first would be over before the last begins, and no step would have all of them."""
        arrivals = _ragged(batch, context, output_tokens)
        if not self._prompt_cache:
            return arrivals
        first = ((batch << ID_BITS) + context) << ID_BITS
        arrivals = [msgspec.structs.replace(it, hash_ids=(first + i,)) for i, it in enumerate(arrivals)]
        once = [msgspec.structs.replace(it, output_tokens=1) for it in arrivals]
        await self._house.together(once, trace_block_tokens=self._longest)
        await self._steps()
        return arrivals

    # ------------------------------------------------------------ a prompt beside decodes

    def _batches_beside(self) -> list[tuple[int, int]]:
        capped = [(batch, min(context, self._longest // 4)) for batch, context in BESIDE_BATCHES]
        return [(batch, context) for batch, context in capped if self._fits(batch, context + BESIDE_TOKENS)]

    async def _prompts_beside(self, context: int, batch: int, tokens: int) -> None:
        """One prompt after the other while a batch decodes, and as many afterwards."""
        output = min(self._longest // 2, BESIDE_TOKENS)
        arrivals = await self._begun(batch, context, output)
        background = asyncio.create_task(self._house.together(arrivals, trace_block_tokens=self._longest))
        await self._until_decoding(batch)
        asked = 0
        while not background.done():
            await self._rested_prompt(tokens)
            asked += 1
        await background
        for _ in range(asked):
            await self._rested_prompt(tokens)
        steps = await self._steps()
        self.samples.beside.append(_beside(steps, batch, batch * context, tokens))

    async def _rested_prompt(self, tokens: int) -> None:
        await asyncio.sleep(REST_S)
        await self._house.together([Arrival(t_s=0, input_tokens=tokens, output_tokens=1)])

    async def _until_decoding(self, batch: int) -> None:
        seen = 0
        while seen < 2:
            await asyncio.sleep(0.001)
            seen = sum(step.decode_tokens == batch for step in self._watch.steps)
            if not self._house.cluster.driver.requests.ids():
                return

    # ------------------------------------------------------------ shared

    async def _steps(self) -> list[Step]:
        """Steps since the last call, once the cluster is still."""
        await asyncio.sleep(0.02)
        return self._watch.take()


def _beside(steps: Sequence[Step], batch: int, context_tokens: int, tokens: int) -> Beside:
    """Prompts of ``tokens`` come once the whole batch decodes."""
    found = Beside()
    prompted = decoded = 0
    begun = False
    for step in steps:
        cached = prompted % tokens
        total = context_tokens + decoded
        whole = step.decode_tokens == batch and step.gap_s is not None
        begun = begun or whole
        if whole and step.prefill_tokens:
            found.prompts.append(PrefillSample(step.prefill_tokens, cached, step.taken_s, batch, total))
        elif whole:
            found.decodes_alone.append(DecodeSample(batch, total, step.taken_s))
        elif begun and not step.decode_tokens:
            found.prompts_alone.append(PrefillSample(step.prefill_tokens, cached, step.taken_s))
        prompted += step.prefill_tokens if begun else 0
        decoded += step.decode_tokens
    return found


def _ragged(batch: int, context: int, output_tokens: int) -> list[Arrival]:
    """Sequences from half to one and a half of the context, ``batch`` · ``context`` tokens together: a batch
    of equal sequences is cheaper than any that occurs in service."""
    asked = [context // 2 + (context * i) // (batch - 1) for i in range(batch - 1)] if batch > 1 else []
    asked.append(batch * context - sum(asked))
    return [Arrival(t_s=0, input_tokens=tokens, output_tokens=output_tokens) for tokens in asked]


def _words(experiment: Callable[[int, int], Awaitable[None]], first: int, second: int) -> str:
    if isinstance(experiment, partial):
        return f"a prompt of {second} tokens beside {first} decodes"
    if experiment.__name__ == "_behind":
        return f"a prompt of {first} tokens behind {second} cached ones"
    if second:
        return f"{first} sequences of {second} tokens decode"
    return f"a prompt of {first} tokens"
