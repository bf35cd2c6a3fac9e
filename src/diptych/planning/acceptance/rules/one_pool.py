"""Rules of T3 for engines that do both: prefill first in whole batches, or chunks beside decodes.

Knows: both orders, KV admission by what sequences hold. Does not know: diptych's scheduler.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from diptych.planning.acceptance.rules.engine_fit import EngineFit
from diptych.planning.acceptance.rules.gaps import DecodeBatch, all_served
from diptych.planning.acceptance.rules.requests import Asked, Served
from diptych.planning.acceptance.rules.two_pools import BATCH_TOKENS


def serve_prefill_first(asked: Sequence[Asked], fit: EngineFit) -> list[Served]:
    """Whenever a prompt waits and fits, a batch of whole prompts runs alone; else a decode step."""
    engine = _Engine(asked, fit)
    while engine.turn():
        prompts = engine.whole_prompts()
        if prompts:
            engine.now_s += fit.prefill_s([asked[request].input for request in prompts])
            for request in prompts:
                engine.batch.join(request, engine.now_s)
        else:
            engine.now_s += fit.decode_s(engine.batch.size, engine.batch.context_tokens)
            engine.batch.step(engine.now_s)
    return all_served(engine.served)


def serve_chunked(asked: Sequence[Asked], fit: EngineFit, chunk: int) -> list[Served]:
    """Every step decodes one token of each and fills what is left of ``chunk`` with prompt tokens.

    The step takes the decode fit, or prefill's constant where nothing decodes, plus each chunk's growth.
    """
    engine = _Engine(asked, fit)
    while engine.turn():
        pieces = engine.chunks(chunk - engine.batch.size)
        decodes = engine.batch.size
        step_s = fit.decode_s(decodes, engine.batch.context_tokens) if decodes else fit.prefill[0]
        engine.now_s += step_s + sum(fit.chunk_s(new, done) for _, new, done in pieces)
        if decodes:
            engine.batch.step(engine.now_s)
        for request, new, done in pieces:
            if done + new == asked[request].input:
                engine.prompt_ended(request)
    return all_served(engine.served)


class _Engine:
    """Queue, prompts under way and batch of one engine."""

    def __init__(self, asked: Sequence[Asked], fit: EngineFit) -> None:
        self.now_s = 0.0
        self.served: list[Served | None] = [None] * len(asked)
        self.batch = DecodeBatch(asked, self.served)
        self._asked = asked
        self._kv_tokens = fit.kv_tokens
        self._coming = 0
        self._line: deque[int] = deque()
        self._started: deque[list[int]] = deque()
        self._prompt_tokens = 0

    def turn(self) -> bool:
        """Take in who has arrived; wait if there is nothing to do. False at the end."""
        asked = self._asked
        if not (self._line or self._started or self.batch.size):
            if self._coming == len(asked):
                return False
            self.now_s = max(self.now_s, asked[self._coming].t_s)
        while self._coming < len(asked) and asked[self._coming].t_s <= self.now_s:
            self._line.append(self._coming)
            self._coming += 1
        return True

    def whole_prompts(self) -> list[int]:
        """The next batch of prompts: at most `BATCH_TOKENS` (at least one prompt), as far as KV reaches."""
        batch: list[int] = []
        tokens = 0
        while self._line:
            size = self._asked[self._line[0]].input
            needed = self.batch.context_tokens + tokens + size + 1
            if (batch and tokens + size > BATCH_TOKENS) or (
                (batch or self.batch.size) and needed > self._kv_tokens
            ):
                break
            batch.append(self._line.popleft())
            tokens += size
        return batch

    def chunks(self, budget: int) -> list[tuple[int, int, int]]:
        """(request, new tokens, tokens before) for at most ``budget`` tokens, in order of arrival."""
        pieces: list[tuple[int, int, int]] = []
        while budget > 0 and (self._started or self._start(bool(pieces))):
            request, done = self._started[0]
            new = min(budget, self._asked[request].input - done)
            pieces.append((request, new, done))
            budget -= new
            if done + new < self._asked[request].input:
                self._started[0][1] += new
                break
            self._started.popleft()
        return pieces

    def prompt_ended(self, request: int) -> None:
        """Its last chunk has run: it decodes from the next step on."""
        self._prompt_tokens -= self._asked[request].input
        self.batch.join(request, self.now_s)

    def _start(self, others: bool) -> bool:
        """Admit the head of the line if its prompt fits."""
        if not self._line:
            return False
        size = self._asked[self._line[0]].input
        needed = self.batch.context_tokens + self._prompt_tokens + size + 1
        if (self.batch.size or others) and needed > self._kv_tokens:
            return False
        self._started.append([self._line.popleft(), 0])
        self._prompt_tokens += size
        return True
