"""Rules of T13: an agentic coder's requests on eight GPUs, combined or split into prefill and decode.

Knows: lengths, seconds of a prompt and of a step, when KV is reserved. Does not know: diptych's placement.

Split: one queue before the prefill workers; at a prompt's end its KV (prompt + output) is reserved on the
decode
GPU that has least in use, first come first served, and its first token leaves only then. Combined: the
request
joins
the engine with the least prefill work left, reserves there before its prefill, and prefill and decode run
side by
side, each slowed.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log, sqrt
from random import Random
from statistics import NormalDist, fmean, median

from diptych.planning.acceptance.rules.gaps import DecodeBatch, all_served
from diptych.planning.acceptance.rules.requests import Asked, Served

INPUT_MU, INPUT_SIGMA = log(20_000), log(88 / 20) / NormalDist().inv_cdf(0.9)
OUTPUT_MU, OUTPUT_SIGMA = log(80), sqrt(2 * log(445 / 80))
SHORTEST, LONGEST, LONGEST_OUTPUT = 64, 131_072, 16_384
CACHED_SHARE = 0.857
KV_TOKENS = 227_865
KV_BYTES = 96 * 1024
EXPERTS, USED_EXPERTS = 128, 8
COMBINED_PREFILL, COMBINED_DECODE = 1.1, 1.15
REQUESTS = 4000


def coder_requests(rate_rps: float, seed: int, count: int = REQUESTS) -> list[Asked]:
    """Inputs are drawn again until they lie within the bounds, outputs are cut at theirs."""
    draw, t_s = Random(seed), 0.0
    made: list[Asked] = []
    for _ in range(count):
        t_s += draw.expovariate(rate_rps)
        prompt = draw_input(draw)
        output = int(min(LONGEST_OUTPUT, max(1, draw.lognormvariate(OUTPUT_MU, OUTPUT_SIGMA))))
        made.append(Asked(t_s, prompt, output))
    return made


def draw_input(draw: Random) -> int:
    """One prompt's tokens."""
    while True:
        tokens = draw.lognormvariate(INPUT_MU, INPUT_SIGMA)
        if SHORTEST <= tokens <= LONGEST:
            return int(tokens)


def prefill_s(prompt: int) -> float:
    """Seconds of a prompt of which most is cached."""
    cached = int(CACHED_SHARE * prompt)
    flop = 6.6e9 * (prompt - cached) + 2 * 48 * 4096 * (prompt**2 - cached**2)
    return flop / 74e12 + 0.020


def step_s(batch: int, context_tokens: int) -> float:
    """A decode step: shared weights, the experts that the batch touches, KV."""
    touched = 1 - (1 - USED_EXPERTS / EXPERTS) ** batch
    return (3e9 + 58e9 * touched + KV_BYTES * context_tokens) / 3.2e12 + 2.9e-3


@dataclass(frozen=True, slots=True)
class CoderRun:
    """One run's figures."""

    ttft_p50_s: float
    ttft_mean_s: float
    e2e_mean_s: float
    kv_wait_share: float
    """Waiting for decode KV over all of TTFT."""
    completed_rps: float
    prefill_utilisation: float
    kv_peak: float
    binding: str
    """What holds requests back: prefill, decode KV, or nothing."""


def run_split(asked: Sequence[Asked], prefills: int, decodes: int) -> CoderRun:
    """So many GPUs of each kind."""
    return _Split(asked, prefills, decodes).run()


def run_combined(asked: Sequence[Asked], engines: int) -> CoderRun:
    """Every GPU does both."""
    return _Combined(asked, engines).run()


class _Gpu:
    """KV and decode batch of one GPU."""

    def __init__(self, asked: Sequence[Asked], served: list[Served | None], factor: float) -> None:
        self.used = self.peak = 0
        self.joining: list[tuple[int, float]] = []
        self.stepping = False
        self._batch = DecodeBatch(asked, served)
        self._asked = asked
        self._factor = factor

    def reserve(self, request: int) -> bool:
        """Take KV for prompt and output, if there is room."""
        needed = self.needed(request)
        if self.used + needed > KV_TOKENS:
            return False
        self.used += needed
        self.peak = max(self.peak, self.used)
        return True

    def needed(self, request: int) -> int:
        return self._asked[request].input + self._asked[request].output

    def start(self) -> float | None:
        """Seconds of the next step; None without work."""
        for request, first_s in self.joining:
            if self._asked[request].output <= 1:
                self.used -= self.needed(request)
            self._batch.join(request, first_s)
        self.joining.clear()
        self.stepping = self._batch.size > 0
        return self._factor * step_s(self._batch.size, self._batch.context_tokens) if self.stepping else None

    def stepped(self, now_s: float) -> bool:
        """A token each; whether KV became free."""
        ended = self._batch.step(now_s)
        self.used -= sum(self.needed(request) for request in ended)
        return bool(ended)


class _Run:
    """Events of both kinds of fleet."""

    def __init__(self, asked: Sequence[Asked], gpus: int, decode_factor: float) -> None:
        self.asked = asked
        self.served: list[Served | None] = [None] * len(asked)
        self.gpus = [_Gpu(asked, self.served, decode_factor) for _ in range(gpus)]
        self.kv_wait_s = self.queue_wait_s = self.busy_s = 0.0
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._made = 0

    def later(self, t_s: float, act: Callable[[float], None]) -> None:
        self._made += 1
        heapq.heappush(self._heap, (t_s, self._made, act))

    def play(self, arrive: Callable[[int], None], prefill_workers: int) -> CoderRun:
        now_s, coming = 0.0, 0
        while self._heap or coming < len(self.asked):
            if coming < len(self.asked) and (not self._heap or self.asked[coming].t_s <= self._heap[0][0]):
                arrive(coming)
                coming += 1
            else:
                now_s, _, act = heapq.heappop(self._heap)
                act(now_s)
        served = all_served(self.served)
        ttft = [it.ttft_s for it in served]
        waits = {"decode KV": self.kv_wait_s, "prefill": self.queue_wait_s}
        binding = max(waits, key=lambda name: waits[name])
        return CoderRun(
            median(ttft),
            fmean(ttft),
            fmean(it.e2e_s for it in served),
            self.kv_wait_s / sum(ttft),
            len(ttft) / now_s,
            self.busy_s / now_s / prefill_workers,
            max(gpu.peak for gpu in self.gpus) / KV_TOKENS,
            binding if waits[binding] > 0.25 * sum(ttft) else "nothing",
        )

    def wake(self, gpu: _Gpu, now_s: float, freed: Callable[[float], None]) -> None:
        """Go on decoding, if it is not."""
        if gpu.stepping:
            return
        span_s = gpu.start()
        if span_s is not None:
            self.later(now_s + span_s, lambda t_s: self._stepped(gpu, t_s, freed))

    def _stepped(self, gpu: _Gpu, now_s: float, freed: Callable[[float], None]) -> None:
        ended = gpu.stepped(now_s)
        gpu.stepping = False
        self.wake(gpu, now_s, freed)
        if ended:
            freed(now_s)


class _Split(_Run):
    def __init__(self, asked: Sequence[Asked], prefills: int, decodes: int) -> None:
        super().__init__(asked, decodes, 1.0)
        self._workers = self._free = prefills
        self._line: deque[int] = deque()
        self._done: deque[tuple[int, float]] = deque()

    def run(self) -> CoderRun:
        return self.play(self._arrive, self._workers)

    def _arrive(self, request: int) -> None:
        self._line.append(request)
        self._prefill(self.asked[request].t_s)

    def _prefill(self, now_s: float) -> None:
        while self._free and self._line:
            request = self._line.popleft()
            self._free -= 1
            span_s = prefill_s(self.asked[request].input)
            self.busy_s += span_s
            self.queue_wait_s += now_s - self.asked[request].t_s
            self.later(now_s + span_s, lambda t_s, it=request: self._prefilled(it, t_s))

    def _prefilled(self, request: int, now_s: float) -> None:
        self._free += 1
        self._done.append((request, now_s))
        self._hand_over(now_s)
        self._prefill(now_s)

    def _hand_over(self, now_s: float) -> None:
        while self._done:
            request, done_s = self._done[0]
            gpu = min(self.gpus, key=lambda it: it.used)
            if not gpu.reserve(request):
                return
            self._done.popleft()
            self.kv_wait_s += now_s - done_s
            gpu.joining.append((request, now_s))
            self.wake(gpu, now_s, self._hand_over)


class _Combined(_Run):
    def __init__(self, asked: Sequence[Asked], engines: int) -> None:
        super().__init__(asked, engines, COMBINED_DECODE)
        self._lines: list[deque[int]] = [deque() for _ in range(engines)]
        self._busy = [False] * engines
        self._free_s = [0.0] * engines
        """When all prefill work that was given to an engine would end, if KV never held it up."""

    def run(self) -> CoderRun:
        return self.play(self._arrive, len(self.gpus))

    def _arrive(self, request: int) -> None:
        now_s = self.asked[request].t_s
        chosen = min(
            range(len(self.gpus)), key=lambda i: (max(self._free_s[i] - now_s, 0.0), self.gpus[i].used)
        )
        span_s = COMBINED_PREFILL * prefill_s(self.asked[request].input)
        self._free_s[chosen] = max(self._free_s[chosen], now_s) + span_s
        self._lines[chosen].append(request)
        self._prefill(chosen, now_s)

    def _prefill(self, place: int, now_s: float) -> None:
        line = self._lines[place]
        if self._busy[place] or not line or not self.gpus[place].reserve(line[0]):
            return
        request = line.popleft()
        self._busy[place] = True
        span_s = COMBINED_PREFILL * prefill_s(self.asked[request].input)
        self.busy_s += span_s
        self.queue_wait_s += now_s - self.asked[request].t_s
        self.later(now_s + span_s, lambda t_s: self._prefilled(place, request, t_s))

    def _prefilled(self, place: int, request: int, now_s: float) -> None:
        self._busy[place] = False
        self.gpus[place].joining.append((request, now_s))
        self.wake(self.gpus[place], now_s, lambda t_s: self._prefill(place, t_s))
        self._prefill(place, now_s)
