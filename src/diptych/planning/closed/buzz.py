"""T12: how the best ratio of context to generation GPUs falls as the limit on token latency tightens.

Knows: the closed form of latency model §11 T12 (after *Beyond the Buzz*, 2025), and what a fixed ratio
loses. Does not
know: fits, simulations.

Prefill: the best requests per second and GPU over tensor parallel sizes that keep the first-token limit.
Decode: the
best over sizes and batches that keep the step limit and fit. The best ratio of GPUs is that of the two
rates, upside
down; a fixed ratio leaves one side idle.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from diptych.planning.closed.checked import Checked, holds, near, shown


class BuzzModel(NamedTuple):
    """A dense model. FLOPs count 2 per weight and 4·L·H·d per (token, earlier token)."""

    parameters: float
    layers: int
    attention_width: int
    """H·d."""
    weight_bytes: float
    kv_token_bytes: float


class BuzzChip(NamedTuple):
    """A chip with T12's efficiencies."""

    bandwidth: float
    flops: float
    memory_bytes: float
    sizes: tuple[int, ...] = (1, 2, 4, 8)
    eta: float = 0.85
    mu: float = 0.45
    layer_us: tuple[float, float] = (52.0, 86.0)
    """Fixed µs per layer at batch 4 and 64, straight between and constant beyond (§4, B200 fp8
    TensorRT-LLM)."""


LLAMA_70B = BuzzModel(70.6e9, 80, 8192, 70.6e9, 163_840.0)
B200 = BuzzChip(7.7e12, 4.5e15, 180e9)

PREFILL_BY_SIZE = {1: 1.0, 2: 0.9, 4: 0.8, 8: 0.65}
"""Prefill efficiency over that of one chip (T12)."""

MEMORY_USE, MOST_BATCH, FIRST_TOKEN_S = 0.9, 1024, 10.0

EXPECTED = {
    (16_384, 2_048): {100: 1.08, 30: 1.07, 20: 0.87, 15: 0.67, 10: 0.37, 7.5: 0.23},
    (2_048, 16_384): {100: 0.021, 30: 0.021, 20: 0.020, 15: 0.016, 10: 0.007, 7.5: 0.004},
}
"""(Prompt, output) -> limit in ms -> ratio (T12, [R])."""

PUBLISHED = {"DeepSeek-R1": (3.64, 0.06), "Llama-405B": (2.07, 0.21), "70B": (0.95, 0.45), "8B": (0.41, 0.35)}
"""Relaxed and tight ends of the published figure."""


class Decode(NamedTuple):
    """The best decode configuration under a limit."""

    rps_per_chip: float
    size: int
    batch: int
    step_s: float


def prefill_rps_per_chip(
    model: BuzzModel, chip: BuzzChip, prompt: int, first_token_s: float = FIRST_TOKEN_S
) -> float:
    """The most requests per second and chip whose prefill keeps ``first_token_s``; 0 if none does."""
    work = 2 * model.parameters * prompt + 2 * model.layers * model.attention_width * prompt**2
    best = 0.0
    for size in chip.sizes:
        seconds = work / (size * chip.flops * chip.mu * PREFILL_BY_SIZE.get(size, PREFILL_BY_SIZE[8]))
        if seconds <= first_token_s:
            best = max(best, 1 / seconds / size)
    return best


def step_s(model: BuzzModel, chip: BuzzChip, size: int, batch: int, context: float) -> float:
    """``max(bytes/(tp·W·η), FLOP/(tp·F·μ)) + L·c0(batch)``."""
    moved = model.weight_bytes + batch * context * model.kv_token_bytes
    work = batch * (2 * model.parameters + 4 * model.layers * model.attention_width * context)
    low, high = chip.layer_us
    layer_us = low + (high - low) * (min(max(batch, 4), 64) - 4) / 60
    roof_s = max(moved / (size * chip.bandwidth * chip.eta), work / (size * chip.flops * chip.mu))
    return roof_s + model.layers * layer_us * 1e-6


def best_decode(model: BuzzModel, chip: BuzzChip, prompt: int, output: int, limit_s: float) -> Decode:
    """The most requests per second and chip whose step keeps ``limit_s``, by sizes and batches that fit at
    full
    length."""
    best = Decode(0.0, 0, 0, 0.0)
    for size in chip.sizes:
        free = MEMORY_USE * chip.memory_bytes * size - model.weight_bytes
        most = min(MOST_BATCH, int(free / model.kv_token_bytes / (prompt + output)))
        for batch in range(1, most + 1):
            seconds = step_s(model, chip, size, batch, prompt + output / 2)
            if seconds > limit_s:
                break
            best = max(best, Decode(batch / seconds / size / (output - 1), size, batch, seconds))
    return best


def best_ratio(model: BuzzModel, chip: BuzzChip, prompt: int, output: int, limit_s: float) -> float:
    """Context GPUs for each generation GPU."""
    decode = best_decode(model, chip, prompt, output, limit_s)
    return decode.rps_per_chip / prefill_rps_per_chip(model, chip, prompt)


def share_of_best(fixed: float, best: float) -> float:
    """Throughput at a ``fixed`` ratio over that at the ``best`` one, equal GPUs: the side that binds over
    both."""
    bound = min(fixed, best) / (1 + fixed)
    return bound / (best / (1 + best))


def evaluate() -> list[Checked]:
    """All statements of T12."""
    found: list[Checked] = []
    for (prompt, output), cells in EXPECTED.items():
        got = [best_ratio(LLAMA_70B, B200, prompt, output, limit / 1e3) for limit in cells]
        for (limit, want), ratio in zip(cells.items(), got, strict=True):
            name = f"70B fp8 on B200, {prompt:,}/{output:,}, TTL {limit:g} ms: context/generation GPUs"
            found.append(near(name, want, round(ratio, 4), relative=0.05))
        falling = all(a >= b for a, b in pairwise(got))
        figures = " ".join(f"{x:.3f}" for x in got)
        found.append(
            holds(f"{prompt:,}/{output:,}: ratio as TTL tightens", "never increases", falling, figures)
        )
    return [*found, *_fixed_ratios()]


def _fixed_ratios() -> list[Checked]:
    limits = (100, 30, 20, 15, 10, 7.5)
    best = [best_ratio(LLAMA_70B, B200, 16_384, 2_048, limit / 1e3) for limit in limits]
    rate = prefill_rps_per_chip(LLAMA_70B, B200, 16_384)
    carried = [rate * min(0.5, ratio) / 1.5 for ratio in best]
    flat = max(carried[:4]) - min(carried[:4]) <= 1e-12
    relaxed, tight = PUBLISHED["DeepSeek-R1"]
    shares = f"{share_of_best(3.5, relaxed):.2f} relaxed, {share_of_best(3.5, tight):.2f} tight"
    own = " ".join(f"{share_of_best(3.5, ratio):.2f}" for ratio in best)
    good = share_of_best(3.5, relaxed) > 0.95 and share_of_best(3.5, tight) < 0.3
    rates = " ".join(f"{x:.3f}" for x in carried)
    return [
        holds("fixed ratio 0.5, 16,384/2,048, TTL 100…7.5 ms", "saturates: flat from 15 ms on", flat, rates),
        near(
            "fixed ratio 0.5 at DeepSeek-R1's relaxed optimum 3.64",
            0.42,
            round(share_of_best(0.5, relaxed), 3),
            absolute=0.01,
        ),
        holds("fixed ratio 3.5 at DeepSeek-R1's optima", "good only when relaxed", good, shares),
        shown(
            "fixed ratio 3.5, 70B, TTL 100…7.5 ms: share of the best",
            own,
            "70B's best ratio never gets near 3.5",
        ),
    ]
