"""Requests of exact lengths to a running cluster, on schedule, and when their tokens came.

Knows: the cluster's front end, prompts whose prefixes are those of a workload. Does not know: HTTP, text.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Sequence
from hashlib import shake_128

import msgspec

from diptych.domain.ids import RequestId, TokenId
from diptych.domain.kv import extend_hashes, hash_root
from diptych.domain.lifecycle import State
from diptych.domain.report import RequestReport
from diptych.domain.request import Request, SamplingParams, TokenOut
from diptych.runtime.cluster import Cluster
from diptych.workload.record import Arrival, Workload

FIRST_ID = 16
"""Ids below it are not drawn: many vocabularies begin with their special tokens."""

SPIN_S = 0.002
"""The last stretch before a request is due is not slept: timers of an event loop are a millisecond or two
late."""


class Answer(msgspec.Struct, kw_only=True):
    """One request: when it was due, when its tokens came, on the cluster's clock."""

    arrival: Arrival
    due_s: float
    sent_s: float = 0.0
    first_s: float | None = None
    last_s: float | None = None
    tokens: int = 0
    report: RequestReport | None = None

    @property
    def finished(self) -> bool:
        """Whether all of it came."""
        done = self.report is not None and self.report.state is State.FINISHED
        return done and self.tokens == self.arrival.output_tokens

    @property
    def ttft_s(self) -> float:
        """From the scheduled time to the first token."""
        return (self.first_s or self.due_s) - self.due_s

    @property
    def tpot_s(self) -> float | None:
        """Mean gap between tokens; None for a single one."""
        if self.first_s is None or self.last_s is None or self.tokens < 2:
            return None
        return (self.last_s - self.first_s) / (self.tokens - 1)


class House:
    """Asks one cluster."""

    def __init__(self, cluster: Cluster, seed: int = 0) -> None:
        self.cluster = cluster
        self._seed = seed
        self._vocab = cluster.model_shape.vocab
        self._block_tokens = cluster.spec.kv.block_tokens
        self._root = hash_root("house", str(seed))
        self._asked = 0

    async def run(self, workload: Workload) -> list[Answer]:
        """Open loop: each request leaves when it is due, whatever the others do."""
        start_s = self.cluster.frontend.now_s() + 0.05
        prepared = [(arrival, self.request(arrival, workload.block_tokens)) for arrival in workload]
        tasks: list[asyncio.Task[Answer]] = []
        for arrival, request in prepared:
            await self._until(start_s + arrival.t_s)
            tasks.append(asyncio.create_task(self._ask(arrival, request, start_s + arrival.t_s)))
        return list(await asyncio.gather(*tasks))

    async def together(self, arrivals: Sequence[Arrival], trace_block_tokens: int = 0) -> list[Answer]:
        """All at once. ``trace_block_tokens``: tokens of each of their hash ids."""
        now_s = self.cluster.frontend.now_s()
        prepared = [(arrival, self.request(arrival, trace_block_tokens)) for arrival in arrivals]
        asked = [self._ask(arrival, request, now_s) for arrival, request in prepared]
        return list(await asyncio.gather(*asked))

    def request(self, arrival: Arrival, trace_block_tokens: int) -> Request:
        """Exactly so many tokens in and out; equal leading hash ids, equal leading tokens."""
        self._asked += 1
        tokens: list[TokenId] = []
        for hash_id in arrival.hash_ids:
            room = arrival.input_tokens - len(tokens)
            tokens += self._tokens(f"block/{hash_id}", min(room, trace_block_tokens))
        tokens += self._tokens(f"own/{self._asked}", arrival.input_tokens - len(tokens))
        prompt = tuple(tokens)
        return Request(
            request_id=RequestId(f"house-{self._asked}"),
            prompt_token_ids=prompt,
            cache_root=self._root,
            block_hashes=extend_hashes(self._root, prompt, self._block_tokens),
            sampling=SamplingParams(max_tokens=arrival.output_tokens, seed=self._asked, temperature=0.0),
        )

    def _tokens(self, name: str, count: int) -> list[TokenId]:
        if count <= 0:
            return []
        raw = array("I", shake_128(f"{self._seed}/{name}".encode()).digest(4 * count))
        span = self._vocab - FIRST_ID
        return [FIRST_ID + value % span for value in raw]

    async def _until(self, t_s: float) -> None:
        while (left_s := t_s - self.cluster.frontend.now_s()) > 0:
            await asyncio.sleep(left_s - SPIN_S if left_s > SPIN_S else 0)

    async def _ask(self, arrival: Arrival, request: Request, due_s: float) -> Answer:
        frontend = self.cluster.frontend
        answer = Answer(arrival=arrival, due_s=due_s, sent_s=frontend.now_s())
        stream = frontend.submit(request, answer.sent_s)
        while answer.report is None:
            for item in await stream.next_batch():
                if isinstance(item, TokenOut):
                    answer.last_s = frontend.now_s()
                    answer.first_s = answer.first_s if answer.first_s is not None else answer.last_s
                    answer.tokens += 1
                elif isinstance(item, RequestReport):
                    answer.report = item
        return answer
