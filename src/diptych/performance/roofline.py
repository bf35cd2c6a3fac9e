"""Seconds of a step from work and efficiencies: the roofline, kept apart into compute, memory, network and
fixed.

Knows: the formulas of `docs/planning.md`, step times. Does not know: which efficiencies hold for whom,
queues.

    memory  = (others + experts · coverage) / (W·η) + KV / (W·η_kv)
    compute = products / (F·μ) + attention / (F·μ_att) + passes over activations / W
    step    = max(memory + σ·(compute + network), compute + network + σ·memory) + fixed

σ = 0 is the ideal overlap (the plain maximum), σ = 1 the safe sum. Both arguments of the maximum are straight
lines in the context, so a run of decode steps keeps its closed form.

Everything down to `closed_loop` is plain arithmetic: `planning.fit` calls the same functions with arrays.
"""

from __future__ import annotations

from typing import NamedTuple

from diptych.performance.work import Work


class Efficiencies(NamedTuple):
    """What stands between peak and real, for one engine, model family, chip, precision and size."""

    eta_weights: float
    eta_experts: float
    eta_kv: float
    skew: float
    """Tokens that would reach as many experts if routing were uniform, per token."""
    imbalance: float
    """Busiest expert rank over the mean."""
    mu: float
    mu_experts: float
    mu_attention: float
    passes: float
    """Passes over the activations of a token in each layer (norms, rotations, residuals, conversions)."""
    routed_passes: float
    """The same per expert that a token is sent to."""
    link: float
    layer_s: float
    """Fixed seconds of one layer and step: launches, waits, all-reduce latency."""
    layer_root_s: float
    """Growth of that with the root of a rank's sequences."""
    sequence_s: float
    """Host seconds per sequence and step of one attention rank: each has its own scheduler."""
    overlap: float
    """σ above."""


class Coefficients(NamedTuple):
    """Seconds per unit of load of one engine."""

    others_s: float
    experts_s: float
    missed: float
    context_s: float
    kv_sequence_s: float
    token_s: float
    pair_s: float
    decode_pair_s: float
    window_s: float
    window: float
    link_token_s: float
    fixed_s: float
    root_s: float
    sequence_s: float
    overlap: float


class StepCost(NamedTuple):
    """One step, its parts kept apart. Parts overlap: they do not add up to ``total_s``."""

    compute_s: float
    memory_s: float
    network_s: float
    fixed_s: float
    total_s: float


class Load(NamedTuple):
    """What a step does."""

    tokens: float
    """New tokens, decodes included."""
    pairs: float = 0.0
    """(new token, earlier token) of prompts, layers that see all."""
    window_pairs: float = 0.0
    decodes: float = 0.0
    context: float = 0.0
    """Context of the decodes, summed."""
    read: float = 0.0
    """Cached tokens that prompts read."""


def coefficients(work: Work, eff: Efficiencies) -> Coefficients:
    """Work over efficiencies."""
    w = work.bandwidth
    products = work.linear_flops / (work.peak * eff.mu) + work.expert_flops / (work.peak * eff.mu_experts)
    passes = (work.hidden_bytes * eff.passes + work.routed_bytes * eff.routed_passes) / w
    attention = work.attention_peak * eff.mu_attention
    return Coefficients(
        others_s=work.others_bytes / (w * eff.eta_weights),
        experts_s=work.experts_bytes * eff.imbalance / (w * eff.eta_experts),
        missed=work.missed**eff.skew,
        context_s=work.context_bytes / (w * eff.eta_kv),
        kv_sequence_s=work.sequence_bytes / (w * eff.eta_kv),
        token_s=products + passes,
        pair_s=work.pair_flops / attention,
        decode_pair_s=work.decode_pair_flops / attention,
        window_s=work.window_flops / attention,
        window=work.window,
        link_token_s=work.link_bytes / (work.link * eff.link),
        fixed_s=work.layers * eff.layer_s,
        root_s=work.layers * eff.layer_root_s / work.ranks**0.5,
        sequence_s=eff.sequence_s / work.ranks,
        overlap=eff.overlap,
    )


def memory_s(c: Coefficients, load: Load) -> float:
    """Seconds of reading weights and KV."""
    weights = c.others_s + c.experts_s * (1.0 - c.missed**load.tokens)
    return weights + c.context_s * (load.context + load.read) + c.kv_sequence_s * load.decodes


def compute_s(c: Coefficients, load: Load) -> float:
    """Seconds of products, attention and passes over activations."""
    decode = c.decode_pair_s * load.context + c.window_s * c.window * load.decodes
    return c.token_s * load.tokens + c.pair_s * load.pairs + c.window_s * load.window_pairs + decode


def network_s(c: Coefficients, load: Load) -> float:
    """Seconds on the links between the chips of a stage."""
    return c.link_token_s * load.tokens


def fixed_s(c: Coefficients, sequences: float) -> float:
    """Seconds that do not shrink with more chips."""
    return c.fixed_s + c.root_s * sequences**0.5 + c.sequence_s * sequences


def roof_s(c: Coefficients, memory: float, busy: float) -> float:
    """``max(memory + σ·busy, busy + σ·memory)``, which is ``max + σ·min`` for σ ≤ 1."""
    return larger(memory + c.overlap * busy, busy + c.overlap * memory)


def step_cost(c: Coefficients, load: Load, sequences: float) -> StepCost:
    """One step over ``sequences`` sequences (prompts and decodes)."""
    memory, compute, network = memory_s(c, load), compute_s(c, load), network_s(c, load)
    fixed = fixed_s(c, sequences)
    return StepCost(compute, memory, network, fixed, roof_s(c, memory, compute + network) + fixed)


def prompt_load(c: Coefficients, new: float, cached: float = 0.0) -> Load:
    """A chunk of ``new`` tokens behind ``cached`` ones."""
    pairs = new * cached + new * new / 2.0
    return Load(new, pairs, window_area(cached, cached + new, c.window), read=cached)


def window_area(start: float, end: float, window: float) -> float:
    """``∫ min(x, window) dx`` from ``start`` to ``end``."""
    low, high = smaller(start, window), smaller(end, window)
    return (high * high - low * low) / 2.0 + window * ((end - high) - (start - low))


def larger(a: float, b: float) -> float:
    """The maximum, in arithmetic that arrays share."""
    return (a + b + abs(a - b)) / 2.0


def smaller(a: float, b: float) -> float:
    """The minimum, in arithmetic that arrays share."""
    return (a + b - abs(a - b)) / 2.0
