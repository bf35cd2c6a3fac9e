"""Sessions: chats whose prompts grow from turn to turn, and agents that call a model in chains.

Knows: turns, calls, pauses, what a prompt shares with the one before. Does not know: when sessions begin.
All draw from generators that are passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Protocol

from diptych.domain.errors import SpecError
from diptych.workload.making.context import Context, Ids
from diptych.workload.making.lengths import Lengths
from diptych.workload.making.processes import positive
from diptych.workload.record import Arrival

AGENT_CALLS_PER_TURN = 7.83
"""Calls of the model in one turn of a coding agent; public totals, latency model §5."""
AGENT_TURNS_PER_SESSION = 3.95
"""Turns of one session; same source."""
AGENT_PROMPT_TOKENS = 67_800
"""Mean prompt of a call, tokens; same source."""
AGENT_CACHED = 0.857
"""Share of those prompt tokens that was cached; same source."""
AGENT_OUTPUT_TOKENS = 527
"""Mean output of a call, tokens; same source."""
AGENT_OUTPUT = f"lognormal(median=200,mean={AGENT_OUTPUT_TOKENS},max=16384)"
"""Outputs of a call where nobody says otherwise; median and longest are assumed."""
AGENT_SYSTEM_TOKENS = 16_000
"""System prompt with its tools, shared by all sessions, tokens. Assumed (2025): not among the totals."""
AGENT_TOOL_S = 5.0
"""Mean time of a tool's run, s. Assumed: not among the totals."""
AGENT_THINK_S = 60.0
"""Mean pause of a person between two turns, s. Assumed: not among the totals."""


class SessionMaker(Protocol):
    """Makes the requests of one session, all from ``t_s`` on."""

    def __call__(self, name: str, t_s: float, ids: Ids, rng: Random) -> Iterator[Arrival]: ...


@dataclass(frozen=True)
class Chat:
    """A person and a model, in turn. Each prompt is all that was said before, and a new message.

    ``turns`` is the mean of a geometric number; ``think_s`` the mean of an exponential pause.
    """

    turns: float
    system_tokens: int
    systems: int
    message: Lengths
    output: Lengths
    think_s: float
    block_tokens: int

    def __call__(self, name: str, t_s: float, ids: Ids, rng: Random) -> Iterator[Arrival]:
        context = Context(ids, self.block_tokens, self.system_tokens, rng.randrange(self.systems))
        pause_s: float | None = None
        while True:
            context.grow(self.message(rng))
            output_tokens = self.output(rng)
            yield Arrival(
                t_s=t_s,
                input_tokens=context.tokens,
                output_tokens=output_tokens,
                hash_ids=context.prompt(),
                session_id=name,
                delay_s=pause_s,
            )
            if rng.random() * self.turns < 1:
                return
            context.grow(output_tokens)
            pause_s = exponential(self.think_s, rng)


@dataclass(frozen=True)
class Agent:
    """An agent: turns of calls that wait for tools.

    A turn begins with the system prompt and ``fresh_tokens`` (the task, files, a summary of the turns
    before); each further call adds ``growth_tokens`` on average, the output before it among them. That
    history is summed up at each turn is an assumption: the public totals admit no context that grows
    through all calls.
    """

    turns: float
    calls: float
    system_tokens: int
    systems: int
    fresh_tokens: float
    growth_tokens: float
    output: Lengths
    tool_s: float
    think_s: float
    block_tokens: int

    def __call__(self, name: str, t_s: float, ids: Ids, rng: Random) -> Iterator[Arrival]:
        family = rng.randrange(self.systems)
        pause_s: float | None = None
        for _ in range(1 + small_poisson(self.turns - 1, rng)):
            context = Context(ids, self.block_tokens, self.system_tokens, family)
            context.grow(max(1, round(rng.expovariate(1 / self.fresh_tokens))))
            for _ in range(1 + small_poisson(self.calls - 1, rng)):
                output_tokens = self.output(rng)
                yield Arrival(
                    t_s=t_s,
                    input_tokens=context.tokens,
                    output_tokens=output_tokens,
                    hash_ids=context.prompt(),
                    session_id=name,
                    delay_s=pause_s,
                )
                context.grow(max(output_tokens + 1, round(rng.expovariate(1 / self.growth_tokens))))
                pause_s = exponential(self.tool_s, rng)
            pause_s = exponential(self.think_s, rng)


def agent_growth(prompt: float, cached: float, calls: float, system_tokens: float) -> tuple[float, float]:
    """Fresh tokens at the start of a turn and growth per call that give these means over calls.

    With 1 + Poisson(calls − 1) calls a turn, a call has (λ² + 2λ)/(2·calls) calls before it on average,
    λ = calls − 1. Two equations: system + fresh + that · growth = prompt, and fresh + λ · growth =
    prompt · (1 − cached) · calls.
    """
    more = calls - 1
    before = (more * more + 2 * more) / (2 * calls)
    new_per_turn = prompt * (1 - cached) * calls
    if more == before:
        raise SpecError("calls: 1 leaves nothing to grow; more than 1")
    growth = (system_tokens + new_per_turn - prompt) / (more - before)
    fresh = new_per_turn - more * growth
    if growth <= 0 or fresh <= 0:
        least = max(0.0, prompt - new_per_turn)
        most = prompt - new_per_turn + new_per_turn * (more - before) / more
        raise SpecError(
            f"system: {system_tokens:g} tokens cannot give prompts of {prompt:g} of which {cached:g} is "
            f"cached; between {least:.0f} and {most:.0f}, or change prompt, cached or calls"
        )
    return fresh, growth


def many(
    starts: Iterator[float], maker: SessionMaker, families: int, session_rng: Callable[[int], Random]
) -> Iterator[Arrival]:
    """Session after session. Each has its own generator, so that one more call does not change the rest."""
    ids = Ids(families)
    for number, t_s in enumerate(starts):
        yield from maker(f"s{number}", t_s, ids, session_rng(number))


def exponential(mean_s: float, rng: Random) -> float:
    """A pause with this mean; 0 for a mean of 0."""
    return rng.expovariate(1 / mean_s) if mean_s > 0 else 0.0


def small_poisson(mean: float, rng: Random) -> int:
    """A Poisson number by counting exponential gaps: time grows with the mean, so for small ones."""
    if mean < 0:
        positive("mean", mean)
    count, left = -1, mean
    while left >= 0:
        left -= rng.expovariate(1.0)
        count += 1
    return count
