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
from statistics import median
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

BESIDE_BATCHES = ((2, 128), (8, 512))
"""Batches, and the mean context of their sequences, beside which prompts are computed."""

ROUNDS = 2
"""All batches are done so many times: a machine that is slow for some seconds must not spoil all samples of
one kind."""

VISITS = 5
"""So many times come all single prompts, with batches in between. A length has a row of the profile for
itself, so one slow moment must never be half of its samples."""

REPEATS = 2
"""Single prompts of a length in a visit; fewer when they are slow."""

REST_S = 0.1
"""Before each single prompt, as between the prompts of a worker with some load: a core that has rested so
long computes the next prompt 5 % slower than one that has not."""

EXPERIMENT_S = 1.5
"""About as long a slow engine may take for one batch."""

FEW_TOKENS, MANY_TOKENS = 10, 32

ID_BITS = 20
"""Of a batch's number, its context, its sequence, in the name of a prompt that comes twice."""

BESIDE_TOKENS = 192
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


class Samples(msgspec.Struct, kw_only=True):
    """Everything measured of one cluster. Seconds."""

    prefill: list[PrefillSample] = []
    decode: list[DecodeSample] = []
    mixed: list[PrefillSample] = []
    contended_prefill: list[PrefillSample] = []
    contended_decode: list[DecodeSample] = []
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
        contexts = [n for n in CONTEXTS if 2 * n < self._longest - MANY_TOKENS]
        single: list[Experiment] = [(self._single, n, 0) for n in prompts]
        other: list[Experiment] = []
        if self._prompt_cache:
            other += [(self._behind, n, self._prefix) for n in BEHIND if self._possible(n + self._prefix)]
        other += [
            (self._batch, b, c) for b in BATCHES if b <= self._most for c in contexts if self._fits(b, c)
        ]
        other += [
            (partial(self._beside, context), b, n)
            for b, context in self._batches_beside()
            for n in BESIDE
            if self._possible(n)
        ]
        await self._warm_up(prompts)
        plan = interleaved(single, other * ROUNDS)
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
        return batch * (context + MANY_TOKENS) <= self._room * 3 // 4

    # ------------------------------------------------------------ prompts alone

    async def _single(self, tokens: int, _unused: int) -> None:
        for _ in range(REPEATS):
            await asyncio.sleep(REST_S)
            answer = (await self._house.together([Arrival(t_s=0, input_tokens=tokens, output_tokens=2)]))[0]
            steps = await self._steps()
            prefills = [step for step in steps if step.prefill_tokens]
            cached = 0
            for step in prefills:
                seconds = step.gap_s if step.gap_s is not None else step.busy_s
                self.samples.prefill.append(PrefillSample(step.prefill_tokens, cached, seconds))
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
        """Prompts that are cached already begin together. Computed one by one, the first would be over before
        the last begins, and no step would have all of them."""
        arrivals = _ragged(batch, context, self._output_tokens(batch))
        if self._prompt_cache:
            first = ((batch << ID_BITS) + context) << ID_BITS
            arrivals = [msgspec.structs.replace(it, hash_ids=(first + i,)) for i, it in enumerate(arrivals)]
            once = [msgspec.structs.replace(it, output_tokens=1) for it in arrivals]
            await self._house.together(once, trace_block_tokens=self._longest)
            await self._steps()
        await self._house.together(arrivals, trace_block_tokens=self._longest)
        decoded = 0
        for step in await self._steps():
            if step.decode_tokens == batch and not step.prefill_tokens and step.gap_s is not None:
                sample = DecodeSample(batch, batch * context + decoded, step.gap_s)
                self.samples.decode.append(sample)
            decoded += step.decode_tokens

    def _output_tokens(self, batch: int) -> int:
        known = [it.seconds for it in self.samples.decode if it.batch >= batch / 2]
        if not known:
            return FEW_TOKENS
        return max(FEW_TOKENS, min(MANY_TOKENS, int(EXPERIMENT_S / max(median(known), 1e-4))))

    # ------------------------------------------------------------ a prompt beside decodes

    def _batches_beside(self) -> list[tuple[int, int]]:
        capped = [(batch, min(context, self._longest // 4)) for batch, context in BESIDE_BATCHES]
        return [(batch, context) for batch, context in capped if self._fits(batch, context)]

    async def _beside(self, context: int, batch: int, tokens: int) -> None:
        """One prompt after the other while a batch decodes. On one mixed worker they share steps; on split
        workers they share the machine."""
        output = min(self._longest // 2, BESIDE_TOKENS)
        background = asyncio.create_task(self._house.together(_ragged(batch, context, output)))
        await self._until_decoding(batch)
        while not background.done():
            await asyncio.sleep(REST_S)
            await self._house.together([Arrival(t_s=0, input_tokens=tokens, output_tokens=1)])
        await background
        steps = await self._steps()
        if Role.MIXED in self._roles:
            self._keep_mixed(steps, batch, context, tokens)
        else:
            self._keep_contended(steps, batch, context, tokens)

    async def _until_decoding(self, batch: int) -> None:
        seen = 0
        while seen < 2:
            await asyncio.sleep(0.001)
            seen = sum(step.decode_tokens == batch for step in self._watch.steps)
            if not self._house.cluster.driver.requests.ids():
                return

    def _keep_mixed(self, steps: Sequence[Step], batch: int, context: int, tokens: int) -> None:
        decoded = prompted = 0
        for step in steps:
            if step.prefill_tokens:
                cached = max(0, prompted - batch * context) % tokens
                if step.decode_tokens == batch and step.gap_s is not None:
                    total = batch * context + decoded
                    sample = PrefillSample(step.prefill_tokens, cached, step.gap_s, batch, total)
                    self.samples.mixed.append(sample)
                prompted += step.prefill_tokens
            decoded += step.decode_tokens

    def _keep_contended(self, steps: Sequence[Step], batch: int, context: int, tokens: int) -> None:
        """Decode steps that lie inside a prefill step, and prefill steps while everybody decodes."""
        running = [step for step in steps if step.decode_tokens == batch and step.gap_s is not None]
        if not running:
            return
        begun_s, over_s = running[0].ended_s, running[-1].ended_s
        chunks: list[Step] = []
        prompted = 0
        for step in steps:
            if not step.prefill_tokens:
                continue
            cached = max(0, prompted - batch * context) % tokens
            prompted += step.prefill_tokens
            if step.ended_s - step.busy_s > begun_s and step.ended_s < over_s:
                chunks.append(step)
                self.samples.contended_prefill.append(PrefillSample(step.prefill_tokens, cached, step.busy_s))
        decoded = 0
        for step in running:
            began_s = step.ended_s - (step.gap_s or 0.0)
            if any(
                chunk.ended_s - chunk.busy_s <= began_s and step.ended_s <= chunk.ended_s for chunk in chunks
            ):
                sample = DecodeSample(batch, batch * context + decoded, step.gap_s or 0.0)
                self.samples.contended_decode.append(sample)
            decoded += batch

    # ------------------------------------------------------------ shared

    async def _steps(self) -> list[Step]:
        """Steps since the last call, once the cluster is still."""
        await asyncio.sleep(0.02)
        return self._watch.take()


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
