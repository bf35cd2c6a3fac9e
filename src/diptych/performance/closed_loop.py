"""An engine that is kept busy by a fixed number of clients: TTFT and TPOT in closed form.

Knows: how a closed loop mixes other requests' prefills into a request's decode, how memory bounds the batch,
what
the start-up burst adds to a mean TTFT. Does not know: efficiencies, arrivals.

Each of ``clients`` sends a request when its last one is answered. Of the C − 1 others, every one is
prefilled once
while a request decodes, in ``prompt / chunk`` steps that are longer by (mixed − plain): that is the
interference
(κ = 1 of the latency model, with overlap). The batch that decodes is the share of its cycle that a request
decodes.
The plain arithmetic is shared with `planning.fit`, which passes arrays.
"""

from __future__ import annotations

from typing import NamedTuple

from diptych.performance.roofline import (
    Coefficients,
    Load,
    compute_s,
    fixed_s,
    larger,
    memory_s,
    network_s,
    prompt_load,
    roof_s,
    smaller,
)

CHUNK_TOKENS = 8192.0
"""Most prompt tokens of a step in the runs that were measured (vLLM's max-num-batched-tokens there)."""

ROUNDS = 4
"""Iterations of the fixed point; the batch moves by less than 1e-3 of itself after three."""

SPLIT_ROUNDS = 12
"""Iterations of a split pair's fixed point, which falls from above by a factor below one each time."""

RESIDENT = 0.6
"""Mean share of its output that a request holds KV for, a little over a half: engines admit with a
reserve."""


class ClosedLoop(NamedTuple):
    """What to expect of one engine."""

    ttft_s: float
    tpot_s: float
    step_s: float
    """Without other requests' prefills: what a decode pool would give at the same batch."""
    batch: float
    """Sequences that decode at a time."""
    prefill_s: float
    """One prompt alone."""


class Clients(NamedTuple):
    """The load. Lengths are means in tokens."""

    clients: float
    prompt: float
    output: float
    start_up: float
    """Share of a full burst of all clients that the mean TTFT sees: ½ · 1/rounds for equal rounds."""
    clumps: float
    """Prompts that wait for one another later on, per root of the clients: chance brings answers together."""
    first_s: float
    """Seconds of a first token that are neither queue nor step: tokenising, scheduling, the way back."""
    kv_tokens: float = 1e18


def closed_loop(c: Coefficients, it: Clients) -> ClosedLoop:
    """TTFT and TPOT under ``it``.

    TTFT = first_s + prefill · (1 + start_up · (B − 1) + clumps · √(B − 1)) + step, plus a wait for memory:
    with more clients than fit, each waits for (C − B)/B cycles.
    """
    fit = larger(it.kv_tokens / (it.prompt + RESIDENT * it.output), 1.0)
    held = smaller(it.clients, fit)
    chunk = smaller(it.prompt, CHUNK_TOKENS)
    whole = prompt_load(c, it.prompt)
    context = it.prompt + it.output / 2.0
    busy_prompt = compute_s(c, whole) + network_s(c, whole)
    alone_s = roof_s(c, memory_s(c, Load(chunk)), busy_prompt) + c.fixed_s
    share = chunk / it.prompt
    batch, tpot, step = held, held, held
    for _ in range(ROUNDS):
        load = Load(batch, decodes=batch, context=batch * context)
        memory, busy, fixed = memory_s(c, load), compute_s(c, load) + network_s(c, load), fixed_s(c, batch)
        step = roof_s(c, memory, busy) + fixed
        mixed_memory = memory_s(c, load._replace(tokens=batch + chunk))
        mixed = roof_s(c, mixed_memory, busy + busy_prompt * share) + fixed
        interrupted = larger(batch - 1.0, 0.0) / it.output / share
        tpot = step + (mixed - step) * interrupted
        batch = held * it.output * tpot / (alone_s + it.output * tpot)
        batch = larger(batch, smaller(held, 1.0))
    others = larger(held - 1.0, 0.0)
    ttft = it.first_s + alone_s * (1.0 + it.start_up * others + it.clumps * others**0.5) + tpot
    waiting = larger(it.clients - held, 0.0) / held * (ttft + it.output * tpot)
    return ClosedLoop(ttft + waiting, tpot, step, batch, alone_s)


class SplitClients(NamedTuple):
    """Load on a prefill pool and a decode pool."""

    clients: float
    prompt: float
    output: float
    prefill_workers: float
    prefill_ranks: float
    decode_workers: float


def split_loop(prefill: Coefficients, decode: Coefficients, it: SplitClients) -> ClosedLoop:
    """Decode steps behind a prefill pool: no interference (κ = 0), and no larger batch than prefill can feed.

    By Little's law the decode batch is rate · output · step; the rate is what clients ask, or what the
    prefill
    pool delivers if that is less. Starts at all clients decoding and falls to the largest batch that holds.
    """
    together = prompt_load(prefill, it.prompt)
    together = Load(*(part * it.prefill_ranks for part in together))
    busy = compute_s(prefill, together) + network_s(prefill, together)
    round_s = roof_s(prefill, memory_s(prefill, together), busy) + prefill.fixed_s
    delivered = it.prefill_workers * it.prefill_ranks / round_s
    most = it.clients / it.decode_workers
    context = it.prompt + it.output / 2.0
    batch, step = most, most
    for _ in range(SPLIT_ROUNDS):
        step = decode_step_s(decode, batch, context)
        asked = it.clients / (round_s + it.output * step)
        batch = smaller(most, smaller(asked, delivered) * it.output * step / it.decode_workers)
        batch = larger(batch, smaller(most, 1.0))
    return ClosedLoop(round_s, step, step, batch, round_s)


def decode_step_s(c: Coefficients, batch: float, context: float) -> float:
    """A step of ``batch`` sequences of mean context ``context``."""
    load = Load(batch, decodes=batch, context=batch * context)
    return roof_s(c, memory_s(c, load), compute_s(c, load) + network_s(c, load)) + fixed_s(c, batch)
